"""Trained model without its data set, for commands and scripts that apply it to other images."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from PIL.Image import Image
from timm.data import ImageNetInfo
from torch import Tensor, nn

from dat_train.choices import CLASSIFIERS
from dat_train.commands.build_data import evaluation_transform
from dat_train.commands.build_model import build_model, classifiers
from dat_train.commands.saved_settings import trained_with
from dat_train.data.scenes.dense_transforms import Normalized, scaled_views
from dat_train.data.storages.class_names import IMAGENET_CLASSES
from dat_train.errors import UserError
from dat_train.evaluation.detection import detect
from dat_train.evaluation.segmentation import predicted_classes
from dat_train.models.detection.boxes import Detections
from dat_train.models.weights.checkpoint import Checkpoint
from dat_train.models.weights.loading import LoadReport, count_classes, load_weights
from dat_train.runtime.precision import Precision, resolve_precision
from dat_train.runtime.processes import resolve_device
from dat_train.settings import Settings


@dataclass(frozen=True)
class TrainedModel:
    """Trained model of any task.

    Attributes:
        model: in evaluation mode, on `precision.device`, in `precision.weights_dtype`.
        classes: names by class number.
        settings: settings of a training run.
        precision: number formats; provides the autocast context of the model.
        weights: source of the weights, and changes made to fit them to the model.
    """

    model: nn.Module
    classes: list[str]
    settings: Settings
    precision: Precision
    weights: LoadReport


class TrainedClassifier(TrainedModel):
    """Trained classifier. Model and transform depend on the settings model, img_size, eval, data.mean and data.std."""

    @cached_property
    def transform(self) -> Callable[[Image], Tensor]:
        """PIL image, RGB -> tensor (3, img_size, img_size), normalized."""
        return evaluation_transform(self.settings)

    @property
    def multi_label(self) -> bool:
        """True if an image may have any number of classes: probabilities are then sigmoids of the logits."""
        return self.settings.task == "multilabel"


class TrainedDense(TrainedModel):
    """Trained segmentation model or detector, and the preparation of its images."""

    def views(self, image: Image, scales: Sequence[float] = (1.0,)) -> list[Tensor]:
        """The image, resized and normalized, at every scale: (3, h, w) each."""
        data = self.settings.data
        return scaled_views(image, self.settings.dense.limits, scales, Normalized(data.mean, data.std))

    @torch.inference_mode()
    def segment(self, image: Image, scales: Sequence[float] | None = None, flip: bool | None = None) -> Tensor:
        """Class (H, W) of every pixel of an image, on the CPU.

        Args:
            scales, flip: views whose probabilities are averaged; None: dense.scales and dense.flip.
        """

        def forward(images: Tensor) -> Tensor:
            with self.precision.context():
                return self.model(images.to(self.precision.device, self.precision.weights_dtype))

        dense = self.settings.dense
        views = self.views(image, scales or dense.scales or (1.0,))
        flip = bool(dense.flip) if flip is None else flip
        return predicted_classes(forward, views, (image.height, image.width), flip).cpu()

    @torch.inference_mode()
    def detect(self, image: Image) -> Detections:
        """Detections of an image in its own pixels."""
        return detect(self.model, self.views(image)[0], (image.height, image.width), self.precision)


def open_trained(
    ckpt: str | Path, *, ema: bool | None = None, device: str = "auto"
) -> TrainedClassifier | TrainedDense:
    """Load the model of a checkpoint of dat-train with the settings of its training, for a script.

    Raises:
        UserError: a file that cannot be read or is not a checkpoint of dat-train.
    """
    checkpoint = Checkpoint.open(ckpt)
    config = trained_with(checkpoint)
    if "kind" not in config.get("data", {}):
        raise UserError(f"{ckpt} has no training settings; use timm.create_model and load_weights")
    return load_trained_model(Settings(config), checkpoint, ema, device)


def load_trained_model(
    settings: Settings, checkpoint: Checkpoint, ema: bool | None, device: str
) -> TrainedClassifier | TrainedDense:
    """Build the model of `settings` with the weights in the checkpoint.

    Args:
        settings: as of a training run, for example from `CommandLine.settings_for`.
        ema: as in `load_weights`.
        device: name of the device, or auto.

    Raises:
        UserError: weights of another architecture, or without a classifier or class names.
    """
    kind = TrainedClassifier if settings.task in CLASSIFIERS else TrainedDense
    number = number_of_classes(settings, checkpoint)
    model, precision = build_model(settings, number), resolve_precision(settings.dtype, resolve_device(device))
    weights = load_weights(model, checkpoint, ema=ema)
    classes = class_names(checkpoint.classes, number) if kind is TrainedClassifier else list(checkpoint.classes)
    return kind(model.to(precision.device, precision.weights_dtype).eval(), classes, settings, precision, weights)


def number_of_classes(settings: Settings, checkpoint: Checkpoint) -> int:
    """Number of classes of the checkpoint's model.

    Raises:
        UserError: the checkpoint has no classifier, or, of segmentation and detection, no class names.
    """
    path = checkpoint.path
    if settings.task not in CLASSIFIERS:
        if not checkpoint.classes:
            raise UserError(f"{path} has no class names: it must be a checkpoint of dat-train or a released one")
        return len(checkpoint.classes)
    number = count_classes(checkpoint, classifiers(settings.model.timm_name))
    if number is None:
        raise UserError(f"{path} has no classifier: it is a backbone; fine-tune it first, with init={path}")
    return number


def class_names(known: Sequence[str], number: int) -> list[str]:
    """Names of `number` classes for display: `known` if given; else ImageNet's for 1000 classes; else numbers.

    WordNet ids, the names of ImageNet's folders, are replaced by words.
    """
    if not known and number == IMAGENET_CLASSES:
        return ImageNetInfo().label_descriptions()
    if len(known) != number:
        return [str(label) for label in range(number)]
    if all(re.fullmatch(r"n\d{8}", name) for name in known):
        info = ImageNetInfo()
        words = {name: info.label_name_to_description(name) for name in info.label_names()}
        return [words.get(name, name) for name in known]
    return list(known)
