"""ImageNet-1K in folders: extracted archives, or Kaggle's tree with validation images that are in no class folders."""

import os
import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from dat_train.data.reading.image_files import image_paths, subfolders
from dat_train.data.storages.catalog import Catalog, sorted_catalog
from dat_train.data.storages.class_names import IMAGENET_CLASSES
from dat_train.data.storages.folders import FolderStorage, scan
from dat_train.data.storages.imagenet_labels import validation_labels
from dat_train.data.storages.split_names import find_split, is_split
from dat_train.errors import UserError

FLAT_IMAGE = re.compile(r"ILSVRC2012_(val|test)_\d{8}\.jpe?g$", re.IGNORECASE)
KAGGLE = ("ILSVRC", "Data", "CLS-LOC")  # folders above train/ and val/


def check_classes(classes: Sequence[str]) -> None:
    """Raise a UserError unless there are as many classes as ImageNet-1K has."""
    if len(classes) != IMAGENET_CLASSES:
        raise UserError(
            f"the training set has {len(classes):,} classes, ImageNet-1K has {IMAGENET_CLASSES}; for other data use "
            "data=folder"
        )


class ImageNetFolders(FolderStorage):
    """ImageNet-1K below train/ and val/; flat validation images get their labels from Kaggle's table or the kit.

    Args:
        root: any level of the tree.
        whole: training needs all 1000 classes.
    """

    def __init__(self, root: Path, whole: bool = False) -> None:
        self.whole = whole
        for number in range(len(KAGGLE)):
            below = root.joinpath(*KAGGLE[number:])
            if below.is_dir():
                root = below
                break
        super().__init__(root)

    def splits(self) -> list[str]:
        names = subfolders(self.root)
        flat = {name: is_flat(self.root / name) for name in names if is_split(name)}
        found = [name for name in super().splits() if not flat[name]]
        return sorted({*found, *(name for name in flat if flat[name] and find_split([name], "val"))})

    def open(self, split: str | None) -> Catalog:
        """Return the images of a split.

        Raises:
            UserError: no class folders and no labels.
        """
        folder = self.root / split if split else self.root
        if not is_flat(folder):
            return scan(folder, check_classes if self.whole and split and find_split([split], "train") else None)
        labels = validation_labels(folder, folder)
        paths = image_paths(folder)
        known = [path for path in paths if PurePosixPath(path).stem in labels]
        if len(known) < len(paths):
            raise UserError(f"{folder}: {len(paths) - len(known):,} images have no label; the first is {paths[0]}")
        names = [path[len(str(folder)) + 1 :] for path in known]
        classes = [labels[PurePosixPath(path).stem] for path in known]
        return sorted_catalog(names, classes, base=str(folder))


def is_flat(folder: Path) -> bool:
    """Return True for the challenge's validation or test images in no class folders."""
    with os.scandir(folder) as entries:
        return any(FLAT_IMAGE.match(entry.name) for entry in entries)
