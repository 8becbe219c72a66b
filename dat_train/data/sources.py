"""Datasets by kind: the images of a training run, and the images to evaluate a model on."""

from collections.abc import Sequence
from pathlib import Path

from dat_train.data.class_names import match_classes
from dat_train.data.dataset import ImageDataset
from dat_train.data.digits import write_digits
from dat_train.data.fake import FakeImages
from dat_train.data.folders import FolderStorage, existing_folder
from dat_train.data.imagenet import ImageNetFolders
from dat_train.data.imagenet_tests import TEST_SETS, open_test_set
from dat_train.data.splits import HoldOut, Storage, open_evaluation_part, open_pair
from dat_train.errors import UserError

KINDS = ("digits", "folder", "imagenet", "fake", *TEST_SETS)


def open_datasets(
    kind: str,
    root: str | Path | None = None,
    *,
    image_size: int = 224,
    val_fraction: float = 0.1,
    split_seed: int = 0,
    split_by: str = "name",
    fake_images: int = 10_000,
    fake_classes: int = 1000,
) -> tuple[ImageDataset, ImageDataset]:
    """Return training and validation set, without transforms. A test set (TEST_SETS) has no training images.

    Args:
        kind: one of KINDS.
        root: where the images are; the digits are written there first.
        image_size: of fake images, pixels.
        val_fraction, split_seed, split_by: images held out where the data has no splits; see `HoldOut`.

    Raises:
        UserError: an unknown kind, or data that cannot be used.
    """
    _check(kind, root)
    if kind == "fake":
        held_out = max(1, round(fake_images * val_fraction))
        train = FakeImages(fake_images, fake_classes, image_size, part="train")
        return train, FakeImages(held_out, fake_classes, image_size, part="val", stand_in=False)
    if kind in TEST_SETS:
        test_set = open_test_set(kind, root)
        return ImageDataset([], test_set.classes), test_set
    if kind == "digits":
        root = write_digits(root, val_fraction=val_fraction, split_seed=split_seed)
    train, val = open_pair(open_storage(kind, root), HoldOut(val_fraction, split_seed, split_by))
    return train.dataset(stand_in=True), val.dataset(stand_in=False)


def open_evaluation_set(
    kind: str,
    root: str | Path | None = None,
    *,
    classes: Sequence[str] | None = None,
    split: str | None = None,
    hold_out: HoldOut | None = None,
    image_size: int = 224,
    val_fraction: float = 0.1,
    split_seed: int = 0,
    fake_images: int = 10_000,
    fake_classes: int = 1000,
) -> ImageDataset:
    """Return the images to evaluate a model on, with its labels. Only the split that is evaluated is read.

    Args:
        classes: the model's class names by label, to which the data is matched by name; None: the data's own.
        split: name of the split, in any case; "all": the whole set; None: val/, else test/, else the whole set.
        hold_out: of the training run, where `root` is the set that it held out a part of: that part alone.

    Raises:
        UserError: data that cannot be used, no such split, or classes that the model does not have.
    """
    _check(kind, root)
    if kind == "fake":
        held_out = max(1, round(fake_images * val_fraction))
        images = FakeImages(held_out, fake_classes, image_size, part="val", stand_in=False)
        if classes is not None and images.classes != list(classes[:fake_classes]):
            raise UserError(f"data=fake has classes 0 to {fake_classes - 1}, which are not the model's classes")
        images.classes = list(classes or images.classes)
        return images
    if kind in TEST_SETS:
        return open_test_set(kind, root, classes)
    if kind == "digits":
        root = write_digits(root, val_fraction=val_fraction, split_seed=split_seed)
    part = open_evaluation_part(open_storage(kind, root), split, hold_out)
    if classes is not None:
        part = match_classes(part, classes, f"data.root={root}")
    return part.dataset(stand_in=False)


def open_storage(kind: str, root: str | Path) -> Storage:
    """Return access to the images at `root`, of any kind that has splits."""
    return ImageNetFolders(existing_folder(root)) if kind == "imagenet" else FolderStorage(existing_folder(root))


def _check(kind: str, root: str | Path | None) -> None:
    if kind not in KINDS:
        raise UserError(f"data.kind={kind} is not possible; one of {', '.join(KINDS)}")
    if root is None and kind != "fake":
        raise UserError(f"data.root is not set: data={kind} needs data.root=PATH")
