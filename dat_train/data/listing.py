"""Which images somebody means who names files, folders and patterns."""

import glob
from collections.abc import Iterable
from pathlib import Path

from dat_train.data.folders import EXTENSIONS, image_paths
from dat_train.errors import UserError

FROM_LIST = "-"


def list_images(names: Iterable[str], lines: Iterable[str] = ()) -> list[str]:
    """Paths of images, in the order they were named.

    Args:
        names: a file (whatever it is called, and whether or not it is there: reading it will tell), a folder (all
            images below it, sorted), a pattern with *, ? or [...] (** for any folders; the files, sorted), or "-".
        lines: what "-" stands for, a file or folder a line.

    Raises:
        UserError: a folder without images, or a pattern that fits no file.
    """
    found: list[str] = []
    for name in names:
        if name == FROM_LIST:
            for line in lines:
                if path := line.rstrip("\r\n"):
                    found += _named(path)
        elif not Path(name).exists() and glob.has_magic(name):
            found += _fitting(name)
        else:
            found += _named(name)
    return found


def _named(name: str) -> list[str]:
    if not Path(name).is_dir():
        return [name]
    images = image_paths(Path(name))
    if not images:
        raise UserError(f"{name} has no images in it ({', '.join(EXTENSIONS)})")
    return images


def _fitting(pattern: str) -> list[str]:
    found = glob.glob(pattern, recursive=True)  # noqa: PTH207  keeps the pattern's own "./" and "../"
    files = sorted(path for path in found if Path(path).is_file())
    if not files:
        raise UserError(f"no file fits {pattern}")
    return files
