"""Image folders: one folder for each class, with or without a folder for each split around them.

ImageNet-1K is read as extracted archives or as Kaggle's tree, also with validation images outside class folders.
"""

import os
import re
from collections.abc import Sequence
from dataclasses import replace
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
from dat_train.data.storages.catalog import Catalog, sorted_catalog
from dat_train.data.storages.class_names import IMAGENET_CLASSES
from dat_train.data.storages.imagenet_labels import validation_classes
from dat_train.data.storages.split_names import find_split, is_split, split_key
from dat_train.errors import UserError
from dat_train.home_folder import expand_home

FLAT_IMAGE = re.compile(r"ILSVRC2012_(val|test)_\d{8}\.jpe?g$", re.IGNORECASE)
KAGGLE = ("ILSVRC", "Data", "CLS-LOC")  # folders above train/ and val/
MAX_SEARCHED = 1000  # maximum number of folders that are searched for a hint


class Folders:
    """Labeled images in class folders below `root`, or below a folder for each split in it.

    ImageNet's validation images outside class folders get their labels from Kaggle's table or the development kit.

    Args:
        root: of ImageNet, any level of Kaggle's tree.
        whole: training needs all 1000 classes of ImageNet.
    """

    def __init__(self, root: Path, whole: bool = False) -> None:
        below = (root.joinpath(*KAGGLE[number:]) for number in range(len(KAGGLE)))
        self.root = next((folder for folder in below if folder.is_dir()), root)
        self.name = str(self.root)
        self.whole = whole

    def splits(self) -> list[str]:
        """Names of the split folders in the root, in their original spelling.

        A folder train/ that contains images, next to other class folders, is a class and not a split.

        Raises:
            UserError: two folders of the same split.
        """
        names = subfolders(self.root)
        splits = [name for name in names if is_split(name)]
        flat = {name for name in splits if is_flat(self.root / name)}
        if len(splits) < len(names):
            splits = [name for name in splits if name in flat or not has_images(self.root / name)]
        splits = [name for name in splits if name not in flat or find_split([name], "val")]
        found: dict[str, str] = {}
        for name in splits:
            first = found.setdefault(split_key(name), name)
            if first != name:
                raise UserError(f"{self.root} has {first}/ and {name}/, the same split: merge them, or rename one")
        return splits

    def open(self, split: str | None) -> Catalog:
        """Return the images of a split folder, or of the root itself (None).

        Raises:
            UserError: no class folders, an empty one, folders that contain only folders, or flat images without labels.
        """
        folder = self.root / split if split else self.root
        if not is_flat(folder):
            catalog = scan(folder, whole=self.whole and bool(split) and find_split([split], "train") is not None)
        else:
            names = [path[len(str(folder)) + 1 :] for path in image_paths(folder)]
            catalog = sorted_catalog(names, validation_classes(names, folder, folder), base=str(folder))
        unused = self._outside_splits() if split else []
        note = f"{self.root}: folders of images next to the splits, not used: {first_named(map(printable, unused))}"
        return replace(catalog, notes=(*catalog.notes, note)) if unused else catalog

    def _outside_splits(self) -> list[str]:
        """Names of the folders in the root that hold images or folders of images and belong to no split."""
        others = [name for name in subfolders(self.root) if not is_split(name)]
        inside = ([name, *(f"{name}/{inner}" for inner in subfolders(self.root / name)[:3])] for name in others)
        return [first for first, *below in inside if any(has_images(self.root / name) for name in (first, *below))]


def is_flat(folder: Path) -> bool:
    """Return True for ImageNet's validation or test images outside class folders."""
    with os.scandir(folder) as entries:
        return any(FLAT_IMAGE.match(entry.name) for entry in entries)


def check_classes(classes: Sequence[str]) -> None:
    """Raise a UserError unless there are as many classes as ImageNet-1K has."""
    if len(classes) != IMAGENET_CLASSES:
        raise UserError(
            f"the training set has {len(classes):,} classes, ImageNet-1K has {IMAGENET_CLASSES}; for other data use "
            "data=folder"
        )


def existing(root: str | Path) -> Path:
    """Return `root` as a path that exists; raise a UserError otherwise."""
    root = expand_home(root)
    if not root.exists():
        inside = "" if root.is_absolute() else f" in the current folder {Path.cwd()}"
        raise UserError(f"data.root={root} does not exist{inside}{_hint_above(root)}")
    return root


def existing_folder(root: str | Path) -> Path:
    """Return `root` as a folder that exists; raise a UserError otherwise."""
    root = existing(root)
    if not root.is_dir():
        raise UserError(f"data.root={root} is not a folder")
    return root


def scan(folder: Path, whole: bool = False) -> Catalog:
    """Return all images in the class folders of `folder`.

    Args:
        whole: require ImageNet's 1000 classes, before the files are listed, which may take minutes.

    Raises:
        UserError: no class folders, an empty one, or folders that contain only folders.
    """
    folders = class_folders(folder)
    if whole:
        check_classes(folders)
    left_out = LeftOut()
    count_other_files(folder, left_out)
    names: list[str] = []
    classes: list[str] = []
    for name in folders:
        images = image_paths(f"{folder}/{name}", left_out)
        if not images:
            raise UserError(
                f"class {printable(name)!r} has no images: {printable(folder / name)} ({suffix_list()}, ...); remove "
                "the folder or add images"
            )
        names += [path[len(str(folder)) + 1 :] for path in images]
        classes += [printable(name)] * len(images)
    return sorted_catalog(names, classes, base=str(folder), notes=left_out.notes(str(folder)))


def class_folders(folder: Path) -> list[str]:
    """Names of the class folders, sorted as text.

    Raises:
        UserError: there are none, or they contain only folders.
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
