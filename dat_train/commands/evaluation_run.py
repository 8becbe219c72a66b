"""Data set on which the model of a checkpoint is evaluated, and its evaluation with progress on the terminal."""

import time
from collections.abc import Iterator, Sequence
from typing import Any

from torch import nn
from torch.utils.data import Dataset

from dat_train.choices import CLASSIFIERS
from dat_train.commands.build_data import (
    evaluation_batches,
    evaluation_transform,
    opened_in_all_processes,
    require_targets,
    scene_datasets,
    source_arguments,
)
from dat_train.commands.load_trained import number_of_classes
from dat_train.commands.saved_settings import trained_with
from dat_train.data.batch import Batch
from dat_train.data.dataset import ImageDataset
from dat_train.data.generated.fake import FakeImages
from dat_train.data.storages.class_names import IMAGENET_CLASSES, imagenet_numbers
from dat_train.data.storages.sources import open_evaluation_set
from dat_train.data.storages.splits import HoldOut
from dat_train.errors import UserError
from dat_train.evaluation.classification import evaluate
from dat_train.evaluation.detection import evaluate_detection
from dat_train.evaluation.multilabel import evaluate_multilabel
from dat_train.evaluation.segmentation import evaluate_segmentation
from dat_train.home_folder import expand_home
from dat_train.models.weights.checkpoint import Checkpoint
from dat_train.runtime.batch_feed import feed_once
from dat_train.runtime.precision import Precision
from dat_train.runtime.processes import Processes
from dat_train.runtime.terminal import Terminal, eta
from dat_train.settings import Settings

PROGRESS_SECONDS = 30.0  # between progress lines if the output is not a terminal


def evaluation_set(settings: Settings, checkpoint: Checkpoint, processes: Processes) -> Dataset:
    """Open the data set of `settings`; its labels are those of the checkpoint's model.

    Raises:
        UserError: no classifier in the checkpoint, data that cannot be used, or classes that the model does not have.
    """
    number = number_of_classes(settings, checkpoint)
    opened = _labeled_images if settings.task in CLASSIFIERS else _scenes
    images = opened(settings, checkpoint, number, processes)
    processes.check_same(f"{len(images):,} images, {images.fingerprint()}", "evaluation set")
    return images


def _labeled_images(settings: Settings, checkpoint: Checkpoint, number: int, processes: Processes) -> ImageDataset:
    """Data set of classification; classes are matched by name."""
    data = settings.data

    def opened() -> ImageDataset:
        return open_evaluation_set(
            data.kind,
            data.root,
            classes=known_classes(checkpoint.classes, number),
            split=data.split,
            hold_out=training_hold_out(settings, trained_with(checkpoint)),
            **source_arguments(settings),
        )

    images = opened_in_all_processes(opened, processes)
    if settings.task == "multilabel":
        require_targets(images, data.name)
    if len(images.classes) != number:
        raise UserError(
            f"{checkpoint.path} has {number:,} classes without names, data={data.name} has {len(images.classes):,}; "
            "set data=..."
        )
    set_view(images, settings)
    return images


def _scenes(settings: Settings, checkpoint: Checkpoint, number: int, processes: Processes) -> Dataset:
    """Validation set of segmentation or detection."""
    (images,) = scene_datasets(settings, processes, ("val",))
    known, own = list(checkpoint.classes), list(images.classes)
    published = not checkpoint.config  # classes in the order of the data, by definition; spelled as the authors do
    if number != len(own) or (known != own and not published):
        raise UserError(
            f"{checkpoint.path} has {number} classes, data={settings.data.name} has {len(own)} or others: set data=..."
        )
    return images


def set_view(images: ImageDataset, settings: Settings) -> None:
    """Give `images` the resolution and the transform of `settings`."""
    images.transform = evaluation_transform(settings)
    if isinstance(images, FakeImages):
        images.image_size = settings.img_size


def known_classes(names: Sequence[str], number: int) -> list[str] | None:
    """Class names of a model with `number` classes; ImageNet's WordNet numbers for 1000 classes without names."""
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


def run_evaluation(
    settings: Settings,
    val_set: Dataset,
    model: nn.Module,
    *,
    precision: Precision,
    processes: Processes,
    terminal: Terminal,
    text: str = "evaluating",
) -> tuple[Any, float]:
    """Evaluate a model on its validation set.

    Args:
        text: text of the progress bar.

    Returns:
        The evaluation of the task, whose attribute `Score.name` is the score, and the seconds it took.

    Raises:
        UserError: no batch arrives within settings.timeout_minutes, or no image can be read.
    """
    loader = evaluation_batches(settings, val_set, processes)
    start = time.monotonic()
    batches = _watched(loader, terminal, text, settings.timeout_minutes)
    options: dict[str, Any] = {"precision": precision, "processes": processes}
    match settings.task:
        case "classification":
            options |= {"num_classes": len(val_set.classes), "subset": val_set.subset, "valid_labels": val_set.right}
            found = evaluate(model, batches, **options)
        case "multilabel":
            found = evaluate_multilabel(model, batches, **options)
        case "segmentation":
            options |= {"num_classes": len(val_set.classes), "flip": bool(settings.dense.flip)}
            found = evaluate_segmentation(model, batches, **options)
        case "detection":
            found = evaluate_detection(model, batches, classes=val_set.classes, **options)
    return found, time.monotonic() - start


def _watched(loader: Sequence[Batch], terminal: Terminal, text: str, timeout_minutes: float) -> Iterator[Batch]:
    """Yield the batches of `loader` and print the progress."""
    start = time.monotonic()
    next_line = start + PROGRESS_SECONDS
    for done, batch in enumerate(feed_once(loader, terminal.warn, timeout_minutes=timeout_minutes)):
        terminal.progress(done, len(loader), text)
        if not terminal.live and (now := time.monotonic()) > next_line and done:
            terminal.say(f"batch {done:,}/{len(loader):,}   {eta(now - start, done, len(loader))}")
            next_line = now + PROGRESS_SECONDS
        yield batch
