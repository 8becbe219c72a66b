"""Default folder of a command's results."""

from pathlib import Path


def beside_run(ckpt: str, name: str) -> Path:
    """NAME/ in the run's folder if the checkpoint belongs to a run; else ./NAME."""
    folder = Path(ckpt).resolve().parent
    of_run = folder.name == "checkpoints" and (folder.parent / "config.yaml").is_file()
    return Path(ckpt).parents[1] / name if of_run else Path(name)
