"""Configuration tree conf/: its location, the choices of a group, and their descriptions."""

from pathlib import Path

UNSET = "unset"  # choice of a group that has no default, in conf/train.yaml


def conf_dir() -> Path:
    """Folder of the configuration tree: inside the installed package, or next to it in a checkout."""
    package = Path(__file__).parents[1]
    installed = package / "conf"
    return installed if installed.is_dir() else package.parent / "conf"


def choices(group: str) -> list[str]:
    """Names of a configuration group, e.g. of the models."""
    return sorted(path.stem for path in (conf_dir() / group).glob("*.yaml"))


def first_comment(path: Path) -> str:
    """First comment of a configuration file, which describes it."""
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("#") and "@package" not in line:
            return line.lstrip("# ")
    return ""
