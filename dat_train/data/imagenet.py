"""ImageNet-1K as an image folder, with checks for what is usually wrong with it."""

import os
from collections.abc import Sequence
from pathlib import Path

from dat_train.data.dataset import ImageDataset
from dat_train.data.folders import (
    VALIDATION_NAMES,
    class_folders,
    existing,
    is_image,
    scan,
    scan_validation,
    train_set,
    val_set,
)
from dat_train.errors import UserError

CLASSES = 1000


def open_imagenet(root: str | Path) -> tuple[ImageDataset, ImageDataset]:
    """Training and validation set of `root`, which has train/ and val/ with one folder a class.

    Raises:
        UserError: what is missing or not sorted into classes, and the way out.
    """
    root = existing(root)
    if not (root / "train").is_dir():
        below = next((path for path in sorted(root.glob("*/train")) if path.is_dir()), None)
        hint = f"; did you mean data.root={below.parent}?" if below else ""
        raise UserError(f"{root} has no train/ with one folder a class{hint}")
    val = next((root / name for name in VALIDATION_NAMES if (root / name).is_dir()), None)
    if val is None:
        raise UserError(f"{root} has no val/ with one folder a class")
    if _images_lie_flat(val):
        raise UserError(
            f"the images in {val} are not sorted into class folders: "
            f"python scripts/data/sort_imagenet_val.py {val} LABELS"
        )
    check_classes(CLASSES, class_folders(root / "train"), root / "train")  # before the minutes reading names may take
    classes, train_samples = scan(root / "train")
    return train_set(train_samples, classes), val_set(scan_validation(val, classes), classes)


def check_classes(expected: int, classes: Sequence, folder: Path) -> None:
    """Raise a UserError unless `folder` has as many classes as the model."""
    if len(classes) != expected:
        raise UserError(
            f"{folder} has {len(classes)} class folders, ImageNet-1K has {expected}; for other data use data=folder"
        )


def _images_lie_flat(folder: Path) -> bool:
    with os.scandir(folder) as entries:
        return any(is_image(entry.name) and entry.is_file() for entry in entries)
