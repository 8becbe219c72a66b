"""Image folders: one folder a class."""

import os
import random
from collections.abc import Sequence
from pathlib import Path

from dat_train.data.dataset import ImageDataset
from dat_train.data.randomness import keyed_seed
from dat_train.errors import UserError

EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp", ".gif")
VALIDATION_NAMES = ("val", "validation")


def open_folders(root: str | Path, *, val_fraction: float, split_seed: int) -> tuple[ImageDataset, ImageDataset]:
    """Training and validation set of `root`: train/ and val/ (or validation/), or one folder a class, which is split.

    Raises:
        UserError: no such folder, no classes, an empty class, or a validation class that training does not have.
    """
    root = existing(root)
    val = next((root / name for name in VALIDATION_NAMES if (root / name).is_dir()), None)
    if (root / "train").is_dir() and val is not None:
        classes, train_samples = scan(root / "train")
        return train_set(train_samples, classes), val_set(scan_validation(val, classes), classes)
    if (root / "train").is_dir():
        raise UserError(f"{root} has train/ but neither val/ nor validation/; or point data.root at train/ to split it")
    if val is not None:
        raise UserError(f"{root} has {val.name}/ but no train/")
    classes, samples = scan(root)
    train_samples, val_samples = split(samples, len(classes), val_fraction, split_seed)
    return train_set(train_samples, classes), val_set(val_samples, classes)


def existing(root: str | Path) -> Path:
    """`root` as a folder that is there."""
    root = Path(root).expanduser()
    if not root.is_dir():
        raise UserError(f"data.root={root} is {'not a folder' if root.exists() else 'not there'}")
    return root


def train_set(samples: Sequence[tuple[str, int]], classes: Sequence[str]) -> ImageDataset:
    return ImageDataset(samples, classes)


def val_set(samples: Sequence[tuple[str, int]], classes: Sequence[str]) -> ImageDataset:
    return ImageDataset(samples, classes, stand_in=False)


def scan(folder: Path) -> tuple[list[str], list[tuple[str, int]]]:
    """Class names, sorted, and (path, label) of every image below `folder`, sorted.

    Raises:
        UserError: no class folders, or one without images.
    """
    classes = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))
    if not classes:
        raise UserError(f"{folder} has no folders in it: each class is a folder of images")
    samples: list[tuple[str, int]] = []
    for label, name in enumerate(classes):
        paths = _images(folder / name)
        if not paths:
            raise UserError(
                f"class {name!r} has no images: {folder / name} ({', '.join(EXTENSIONS)}); remove or fill it"
            )
        samples += [(path, label) for path in paths]
    return classes, samples


def scan_validation(folder: Path, classes: Sequence[str]) -> list[tuple[str, int]]:
    """(path, training label) of every image; validation may lack classes but not have others."""
    names, samples = scan(folder)
    other = sorted(set(names) - set(classes))
    if other:
        raise UserError(f"{folder} has the class {other[0]!r} ({len(other)} in all) that train/ does not have")
    label = {name: i for i, name in enumerate(classes)}
    return [(path, label[names[i]]) for path, i in samples]


def split(
    samples: Sequence[tuple[str, int]], classes: int, fraction: float, seed: int
) -> tuple[list[tuple[str, int]], list[tuple[str, int]]]:
    """Training and validation samples: of every class the same seeded share, at least one for training.

    Raises:
        UserError: nothing would be held out.
    """
    train: list[tuple[str, int]] = []
    val: list[tuple[str, int]] = []
    for label in range(classes):
        own = [sample for sample in samples if sample[1] == label]
        random.Random(keyed_seed("split", seed, label)).shuffle(own)
        held_out = min(round(len(own) * fraction), len(own) - 1)
        val += own[:held_out]
        train += own[held_out:]
    if not val:
        raise UserError(
            f"data.val_fraction={fraction} holds out no image of {len(samples)}; raise it or make a val/ folder"
        )
    return sorted(train, key=_by_label), sorted(val, key=_by_label)


def _by_label(sample: tuple[str, int]) -> tuple[int, str]:
    return sample[1], sample[0]


def _images(folder: Path) -> list[str]:
    """Paths of all images below `folder`, sorted."""
    found = []
    for path, folders, files in os.walk(folder, followlinks=True):
        folders.sort()
        found += [f"{path}/{name}" for name in files if name.lower().endswith(EXTENSIONS) and not name.startswith(".")]
    return sorted(found)
