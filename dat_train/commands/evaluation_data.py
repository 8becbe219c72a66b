"""Data set on which the model of a checkpoint is evaluated, with the labels of the model."""

from collections.abc import Sequence
from typing import Any

from torch.utils.data import Dataset

from dat_train.choices import CLASSIFIERS
from dat_train.commands.build_data import evaluation_transform, opened_by_all, require_targets, source_arguments
from dat_train.commands.build_dense import validation_set
from dat_train.commands.checkpoint_settings import trained_with
from dat_train.commands.trained import classifier_size
from dat_train.data.dataset import ImageDataset
from dat_train.data.generated.fake import FakeImages
from dat_train.data.storages.class_names import IMAGENET_CLASSES, imagenet_numbers
from dat_train.data.storages.sources import open_evaluation_set
from dat_train.data.storages.splits import HoldOut
from dat_train.errors import UserError
from dat_train.home_folder import expand_home
from dat_train.models.checkpoint import Checkpoint
from dat_train.runtime.processes import Processes
from dat_train.settings import Settings


def evaluation_set(settings: Settings, checkpoint: Checkpoint, processes: Processes) -> Dataset:
    """Open the data set of `settings`; its labels are matched by name to the classes of the checkpoint.

    Raises:
        UserError: no classifier in the checkpoint, data that cannot be used, or classes that the model does not have.
    """
    if settings.get("task", "classification") not in CLASSIFIERS:
        return _dense_set(settings, checkpoint, processes)
    number, ckpt = classifier_size(settings, checkpoint), checkpoint.path
    data, classes = settings.data, known_classes(checkpoint.classes, number)

    def opened() -> ImageDataset:
        return open_evaluation_set(
            data.kind,
            data.root,
            classes=classes,
            split=data.split,
            hold_out=training_hold_out(settings, trained_with(checkpoint)),
            **source_arguments(settings),
        )

    images = opened_by_all(opened, processes)
    if settings.get("task") == "multilabel":
        require_targets(images, data.name)
    if len(images.classes) != number:
        raise UserError(
            f"{ckpt} has {number:,} classes without names, data={data.name} has {len(images.classes):,}; set data=..."
        )
    processes.check_same(f"{len(images):,} images, {images.fingerprint()}", "evaluation set")
    set_view(images, settings)
    return images


def _dense_set(settings: Settings, checkpoint: Checkpoint, processes: Processes) -> Dataset:
    """Validation set of segmentation or detection."""
    images = validation_set(settings, processes)
    known, own = list(checkpoint.classes), list(images.classes)
    published = not checkpoint.config  # classes in the order of the data, by definition; spelled as the authors do
    if len(known) != len(own) or (known != own and not published):
        raise UserError(
            f"{checkpoint.path} has {len(known)} classes, data={settings.data.name} has {len(own)} or others: set "
            "data=..."
        )
    return images


def set_view(images: ImageDataset, settings: Settings) -> None:
    """Give `images` the resolution and the transform of `settings`."""
    images.transform = evaluation_transform(settings)
    if isinstance(images, FakeImages):
        images.image_size = settings.img_size


def known_classes(names: Sequence[str], number: int) -> list[str] | None:
    """Class names of a model with `number` classes; ImageNet's WordNet numbers where it has 1000 without names."""
    if len(names) == number:
        return list(names)
    return imagenet_numbers() if number == IMAGENET_CLASSES else None


def training_hold_out(settings: Settings, trained: dict[str, Any]) -> HoldOut | None:
    """Part of the images that the training run held out; None if the data set is another one."""
    before = trained.get("data", {})
    if not before.get("root") or not settings.data.root or before.get("kind") != settings.data.kind:
        return None
    if expand_home(before["root"]).resolve() != expand_home(settings.data.root).resolve():
        return None
    return HoldOut(before["val_fraction"], before["split_seed"], before.get("split_by", "order"))
