"""Folder and names of a command's results."""

from collections.abc import Sequence
from pathlib import Path


def run_subfolder(ckpt: Path, name: str) -> Path:
    """NAME/ in the run's folder if the checkpoint belongs to a run; else ./NAME."""
    folder = ckpt.resolve().parent
    of_run = folder.name == "checkpoints" and (folder.parent / "config.yaml").is_file()
    return ckpt.parent.parent / name if of_run else Path(name)


def folder_names(paths: Sequence[str]) -> list[str]:
    """A name for the results of each image: the image's without its extension; equal names are numbered."""
    taken: set[str] = set()
    names = []
    for path in paths:
        name, number = Path(path).stem, 1
        while name in taken:
            number += 1
            name = f"{Path(path).stem}-{number}"
        taken.add(name)
        names.append(name)
    return names
