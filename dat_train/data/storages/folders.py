"""Image folders: one folder for each class, with or without a folder for each split around them."""

import os
from collections.abc import Callable
from pathlib import Path

from dat_train.data.images import printable
from dat_train.data.reading.image_files import (
    LeftOut,
    count_other_files,
    first_named,
    has_images,
    image_paths,
    subfolders,
    suffix_list,
)
from dat_train.data.reading.image_source import WORDNET_NUMBER, sorting_name
from dat_train.data.sample_list import SampleList
from dat_train.data.storages.catalog import Catalog
from dat_train.data.storages.split_names import find_split, is_split
from dat_train.errors import UserError
from dat_train.home_folder import expand_home

MAX_SEARCHED = 1000  # folders that are looked into for a hint


class FolderStorage:
    """Labelled images in class folders below `root`, or below a folder for each split in it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.name = str(root)

    def splits(self) -> list[str]:
        """Names of the split folders in the root, in their original spelling.

        A folder train/ that contains images, next to other class folders, is a class and not a split.
        """
        names = subfolders(self.root)
        splits = [name for name in names if is_split(name)]
        if len(splits) < len(names):
            splits = [name for name in splits if not self._is_class(name)]
        return splits

    def _is_class(self, name: str) -> bool:
        return has_images(self.root / name)

    def open(self, split: str | None) -> Catalog:
        """Return the images of a split folder, or of the root itself (None).

        Raises:
            UserError: no class folders, an empty one, or folders that hold only folders.
        """
        return scan(self.root / split if split else self.root)


def existing(root: str | Path) -> Path:
    """Return `root` as a path that exists.

    Raises:
        UserError: it does not.
    """
    root = expand_home(root)
    if not root.exists():
        inside = "" if root.is_absolute() else f" in the current folder {Path.cwd()}"
        raise UserError(f"data.root={root} does not exist{inside}{_hint_above(root)}")
    return root


def existing_folder(root: str | Path) -> Path:
    """Return `root` as a folder that exists.

    Raises:
        UserError: it does not, or is a file.
    """
    root = existing(root)
    if not root.is_dir():
        raise UserError(f"data.root={root} is not a folder")
    return root


def scan(folder: Path, check: Callable[[list[str]], None] | None = None) -> Catalog:
    """Return all images in the class folders of `folder`: classes sorted as text, images sorted by class and path.

    Args:
        check: called with the class names before the files are listed, which may take minutes.

    Raises:
        UserError: no class folders, an empty one, or folders that hold only folders.
    """
    names = class_folders(folder)
    classes = [printable(name) for name in names]
    if check:
        check(classes)
    left_out = LeftOut()
    count_other_files(folder, left_out)
    samples: list[tuple[str, int]] = []
    for label, name in enumerate(names):
        images = image_paths(folder / name, left_out)
        if not images:
            raise UserError(
                f"class {classes[label]!r} has no images: {printable(folder / name)} ({suffix_list()}, ...); remove "
                "the folder or add images"
            )
        samples += [(image, label) for image in sort_images(images, folder, name)]
    return Catalog(classes, SampleList(samples), str(folder), notes=tuple(left_out.notes(str(folder))))


def sort_images(paths: list[str], folder: Path, class_name: str) -> list[str]:
    """Return the paths of a class, which are sorted as text, in the order of `sorting_name`."""
    if not WORDNET_NUMBER.fullmatch(class_name):
        return paths
    start = len(str(folder)) + 1
    return sorted(paths, key=lambda path: sorting_name(path[start:], class_name))


def class_folders(folder: Path) -> list[str]:
    """Names of the class folders, sorted as text.

    Raises:
        UserError: there are none, or they hold only folders.
    """
    names = subfolders(folder)
    if not names:
        raise UserError(f"{folder} has no folders in it: each class is a folder of images{hint(folder)}")
    if not any(has_images(folder / name) for name in names) and any(subfolders(folder / name) for name in names):
        raise UserError(
            f"the folders in {folder} ({first_named(map(printable, names))}) hold folders and no images, so they are "
            f"not classes{hint(folder)}; for other layouts list the images in a table: data=csv"
        )
    return names


def hint(root: Path) -> str:
    """Hint with the folder below `root` that looks like a data set; "" if there is none."""
    below = data_folder_below(root)
    return f"; did you mean data.root={below}?" if below else ""


def data_folder_below(root: Path) -> Path | None:
    """Return the first folder below `root`, nearest level first, that has splits or class folders with images."""
    level, searched = [root], 0
    while level and searched < MAX_SEARCHED:
        following = []
        for folder in level:
            try:
                names = subfolders(folder)
                searched += len(names) + 1
                if folder != root and looks_like_data(folder, names):
                    return folder
            except OSError:
                continue
            following += [folder / name for name in names]
            if searched > MAX_SEARCHED:
                break
        level = following
    return None


def looks_like_data(folder: Path, names: list[str]) -> bool:
    """Return True if `folder` has a training split, or class folders of images."""
    if find_split(names, "train") and (find_split(names, "val") or find_split(names, "test")):
        return True
    return any(has_images(folder / name) for name in names[:10]) and not find_split([folder.name], "any")


def _hint_above(root: Path) -> str:
    """Hint with the nearest folder above a missing one, and its content."""
    above = next((parent for parent in root.parents if parent.is_dir()), None)
    if above is None or str(above) in ("/", "."):
        return ""
    try:
        names = sorted(os.listdir(above))  # noqa: PTH208  names
    except OSError:
        return ""
    return f"; {above} has {first_named(names)}" if names else f"; {above} is empty"
