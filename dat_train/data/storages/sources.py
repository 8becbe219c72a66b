"""Datasets by kind: the images of a training run, and the images to evaluate a model on."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dat_train.choices import CLASSIFICATION_KINDS, TEST_SETS
from dat_train.data.dataset import ImageDataset
from dat_train.data.generated.digits import write_digits
from dat_train.data.generated.fake import FakeImages
from dat_train.data.reading.image_files import has_images, subfolders
from dat_train.data.storages.archives import OFFICIAL, ArchivedFolders, OfficialArchives, Shards, is_archive
from dat_train.data.storages.class_names import match_classes
from dat_train.data.storages.csv_table import CsvTable
from dat_train.data.storages.folders import Folders, check_classes, existing, existing_folder
from dat_train.data.storages.hugging_face import HuggingFace
from dat_train.data.storages.imagenet_tests import open_test_set
from dat_train.data.storages.splits import HoldOut, Storage, open_evaluation_part, open_pair
from dat_train.errors import UserError, require_one_of

SAVED = ("dataset_dict.json", "state.json")  # files of a data set saved by the package datasets


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
    **columns: Any,
) -> tuple[ImageDataset, ImageDataset]:
    """Return training and validation set, without transforms. A test set (TEST_SETS) has no training images.

    Args:
        kind: one of CLASSIFICATION_KINDS.
        root: folder, file or name of the images; the digits are written there first.
        image_size: of fake images, pixels.
        val_fraction, split_seed, split_by: images held out if the data has no splits; see `HoldOut`.
        columns: image_column, label_column, multi_label of `open_storage`.

    Raises:
        UserError: an unknown kind, or data that cannot be used.
    """
    _check(kind, root)
    if kind == "fake":
        held_out = max(1, round(fake_images * val_fraction))
        train = FakeImages(fake_images, fake_classes, image_size, part="train")
        return train, FakeImages(held_out, fake_classes, image_size, part="val", training=False)
    if kind in TEST_SETS:
        test_set = open_test_set(kind, root)
        return ImageDataset([], test_set.classes), test_set
    if kind == "digits":
        root = write_digits(root, val_fraction=val_fraction, split_seed=split_seed)
    train, val = open_pair(open_storage(kind, root, **columns), HoldOut(val_fraction, split_seed, split_by))
    if kind == "imagenet":
        check_classes(train.classes)
    return train.dataset(training=True), val.dataset(training=False)


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
    **columns: Any,
) -> ImageDataset:
    """Return the images to evaluate a model on, with its labels. Only the split that is evaluated is read.

    Args:
        classes: class names of the model, to which the data is matched by name; None: those of the data.
        split: name of the split, in any case; "all": the whole set; None: val/, else test/, else the whole set.
        columns: image_column, label_column, multi_label of `open_storage`.
        hold_out: that of the training run, if it held out a part of `root`; only this part is returned.

    Raises:
        UserError: data that cannot be used, no such split, or classes that the model does not have.
    """
    _check(kind, root)
    if kind == "fake":
        held_out = max(1, round(fake_images * val_fraction))
        images = FakeImages(held_out, fake_classes, image_size, part="val", training=False)
        if classes is not None and images.classes != list(classes[:fake_classes]):
            raise UserError(f"data=fake has classes 0 to {fake_classes - 1}, which are not the model's classes")
        images.classes = list(classes or images.classes)
        return images
    if kind in TEST_SETS:
        return open_test_set(kind, root, classes)
    if kind == "digits":
        root = write_digits(root, val_fraction=val_fraction, split_seed=split_seed)
    part = open_evaluation_part(open_storage(kind, root, **columns), split, hold_out)
    if classes is not None:
        part = match_classes(part, classes, f"data.root={root}")
    return part.dataset(training=False)


def open_storage(
    kind: str,
    root: str | Path,
    image_column: str | None = None,
    label_column: str | None = None,
    multi_label: bool = False,
) -> Storage:
    """Return access to the images at `root`. Kinds "folder" and "imagenet" recognize the storage format.

    Formats are class folders, Kaggle's tree and ImageNet's official archives, a zip or tar of folders, WebDataset
    shards, and data sets of Hugging Face; they give the same samples in the same order.
    """
    columns = {"image_column": image_column, "label_column": label_column}
    if kind == "hf":
        return HuggingFace(root, **columns)
    path = existing(root)
    if kind == "csv":
        return CsvTable(path, multi_label=multi_label, **columns)
    if kind == "shards":
        return Shards(existing_folder(path), label_column)
    if is_archive(path):
        if path.name in OFFICIAL.values():
            return OfficialArchives(path.parent)
        return ArchivedFolders(path)
    if path.suffix.lower() == ".csv":
        return CsvTable(path, multi_label=multi_label, **columns)
    path = existing_folder(path)
    official = OfficialArchives(path)
    if official.splits():
        return official
    saved = any((path / name).is_file() for name in SAVED)
    if saved or (not subfolders_of_images(path) and any(path.rglob("*.parquet"))):
        return HuggingFace(path, **columns)
    if not subfolders_of_images(path) and any(path.rglob("*.tar")):
        return Shards(path, label_column)
    return Folders(path, whole=kind == "imagenet")


def subfolders_of_images(root: Path) -> bool:
    """Return True if `root` is a folder of class folders or of splits; other formats are then not considered."""
    names = subfolders(root)
    return any(has_images(root / name) for name in names) or any(
        has_images(root / name / inner) for name in names[:3] for inner in subfolders(root / name)[:3]
    )


def _check(kind: str, root: str | Path | None) -> None:
    require_one_of("data.kind", kind, CLASSIFICATION_KINDS)
    if root is None and kind != "fake":
        raise UserError(f"data.root is not set: data={kind} needs data.root=PATH")
