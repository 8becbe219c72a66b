"""Image folders: one folder a class."""

import os
import random
from collections.abc import Sequence
from pathlib import Path

from dat_train.data.dataset import ImageDataset
from dat_train.data.images import printable
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
    """Class names, sorted as text, and (path, label) of every image below `folder`, sorted. Hidden files are none.

    Raises:
        UserError: no class folders, or one without images.
    """
    folders = class_folders(folder)
    samples: list[tuple[str, int]] = []
    for label, path in enumerate(folders):
        images = image_paths(path)
        if not images:
            raise UserError(
                f"class {printable(path.name)!r} has no images: {printable(path)} ({', '.join(EXTENSIONS)}); remove or "
                "fill it"
            )
        samples += [(image, label) for image in images]
    return [printable(path.name) for path in folders], samples


def class_folders(folder: Path) -> list[Path]:
    """The folders of the classes, sorted.

    Raises:
        UserError: none is there.
    """
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
    if not names:
        raise UserError(f"{folder} has no folders in it: each class is a folder of images")
    return [folder / name for name in names]


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
    of_class: list[list[tuple[str, int]]] = [[] for _ in range(classes)]
    for sample in samples:
        of_class[sample[1]].append(sample)
    train: list[tuple[str, int]] = []
    val: list[tuple[str, int]] = []
    for label, own in enumerate(of_class):
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


def image_paths(folder: Path) -> list[str]:
    """Paths of all images below `folder`, sorted; links are followed, but to no folder twice."""
    found = []
    seen = {os.path.realpath(folder)}  # a link to a folder above would lead round and round
    for path, folders, files in os.walk(folder, followlinks=True):
        found += [f"{path}/{name}" for name in files if is_image(name)]
        further = []
        for name in sorted(folders):
            real = os.path.realpath(f"{path}/{name}")
            if not name.startswith(".") and real not in seen:
                seen.add(real)
                further.append(name)
        folders[:] = further
    return sorted(found)


def is_image(name: str) -> bool:
    """Whether a file of this name is taken for an image; not hidden ones, such as macOS' ._photo.jpg."""
    return name.lower().endswith(EXTENSIONS) and not name.startswith(".")
