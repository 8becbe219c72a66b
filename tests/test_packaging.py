"""The installed package is complete: commands, their configuration, and all imports."""

import ast
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import entry_points, packages_distributions, version
from pathlib import Path

import pytest

import dat_train

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder into which the wheel, built from this tree, was installed."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", folder, ROOT]
    subprocess.run(build, check=True)
    (wheel,) = folder.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(folder / "site")
    return folder / "site"


def files(folder):
    kinds = (".py", ".yaml", ".html", ".css", ".js")
    return {path.relative_to(folder) for path in folder.rglob("*") if path.suffix in kinds}


def run(site, *arguments, cwd):
    result = subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env={"PYTHONPATH": str(site)}, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_the_wheel_brings_its_configuration_along(site, tmp_path):
    assert run(site, "-c", "import dat_train; print(dat_train.__file__)", cwd=tmp_path).startswith(str(site))
    assert files(site / "dat_train/conf") == files(ROOT / "conf")


@pytest.mark.parametrize("command", ["train", "eval", "predict", "export", "average", "visualize"])
def test_the_commands_work_from_the_wheel_in_any_folder(command, site, tmp_path):
    start = ["-m", "dat_train.cli.main", command]
    assert "model=dat_nano" in run(site, *start, "--help", cwd=tmp_path)
    if command in ("train", "eval"):
        shown = run(site, *start, "model=dat_nano", "data=digits", "--cfg", "job", cwd=tmp_path)
        assert "timm_name: dat_nano" in shown
    assert list(tmp_path.iterdir()) == []


def test_the_wheel_has_the_code_and_the_configuration_and_nothing_else(site):
    top = {path.name for path in site.iterdir()}
    assert top == {"dat_train", f"dat_train-{dat_train.__version__}.dist-info"}
    conf = {Path("conf") / path for path in files(ROOT / "conf")}
    assert files(site / "dat_train") == files(ROOT / "dat_train") | conf


def test_the_commands_are_installed():
    scripts = [item for item in entry_points(group="console_scripts") if item.value.startswith("dat_train.")]
    assert {item.name for item in scripts} == set(PROJECT["scripts"])
    assert all(callable(item.load()) for item in scripts)
    assert version("dat-train") == dat_train.__version__


def test_every_dependency_has_a_lower_and_an_upper_bound():
    optional = [requirement for extra in PROJECT["optional-dependencies"].values() for requirement in extra]
    for requirement in PROJECT["dependencies"] + optional:
        if requirement.startswith("dat-train["):  # another extra
            continue
        assert ">=" in requirement and "<" in requirement, requirement


def test_everything_imported_is_a_dependency():
    extras = ("detection", "export", "hf", "mlflow")  # imported where they are needed; the error names the extra
    optional = [requirement for extra in extras for requirement in PROJECT["optional-dependencies"][extra]]
    declared = {requirement.partition(">")[0].lower() for requirement in PROJECT["dependencies"] + optional}
    imported = set()
    for path in (ROOT / "dat_train").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                imported.add(node.module.partition(".")[0])
    providers = packages_distributions()
    for name in (
        imported - set(sys.stdlib_module_names) - {"dat_train", "triton"}
    ):  # torch brings it where there is CUDA
        assert {distribution.lower() for distribution in providers[name]} & declared, name
