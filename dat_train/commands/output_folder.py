"""Default folder of a command's results."""

from pathlib import Path


def run_subfolder(ckpt: Path, name: str) -> Path:
    """NAME/ in the run's folder if the checkpoint belongs to a run; else ./NAME."""
    folder = ckpt.resolve().parent
    of_run = folder.name == "checkpoints" and (folder.parent / "config.yaml").is_file()
    return ckpt.parent.parent / name if of_run else Path(name)
