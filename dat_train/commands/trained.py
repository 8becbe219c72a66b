"""Trained model without its data set, for commands and scripts that apply it to other images."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Self

from PIL.Image import Image
from timm.data import ImageNetInfo
from torch import Tensor, nn

from dat_train.choices import CLASSIFIERS
from dat_train.commands.build_data import evaluation_transform
from dat_train.commands.build_model import build_model, classifiers
from dat_train.commands.checkpoint_settings import trained_with
from dat_train.data.storages.class_names import IMAGENET_CLASSES
from dat_train.errors import UserError
from dat_train.models.checkpoint import Checkpoint
from dat_train.models.weights import LoadReport, count_classes, load_weights
from dat_train.runtime.precision import Precision, resolve_precision
from dat_train.runtime.processes import resolve_device
from dat_train.settings import Settings


@dataclass(frozen=True)
class TrainedModel:
    """Trained model of any task.

    Attributes:
        model: in evaluation mode, on `precision.device`, in `precision.weights`.
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

    @classmethod
    def load(
        cls,
        model: nn.Module,
        classes: list[str],
        settings: Settings,
        *,
        checkpoint: Checkpoint,
        ema: bool | None,
        device: str,
    ) -> Self:
        """Load the weights of a checkpoint into a new model; ema and device as in `assemble`.

        Raises:
            UserError: weights of another architecture.
        """
        precision = resolve_precision(settings.dtype, resolve_device(device))
        weights = load_weights(model, checkpoint, ema=ema)
        return cls(model.to(precision.device, precision.weights).eval(), classes, settings, precision, weights)


class Trained(TrainedModel):
    """Trained classifier. Model and transform depend on the settings model, img_size, eval, data.mean and data.std."""

    @cached_property
    def transform(self) -> Callable[[Image], Tensor]:
        """PIL image, RGB -> tensor (3, img_size, img_size), normalized."""
        return evaluation_transform(self.settings)

    @property
    def multi_label(self) -> bool:
        """True if an image may have any number of classes: probabilities are then sigmoids of the logits."""
        return self.settings.get("task") == "multilabel"


def open_trained(ckpt: str | Path, *, ema: bool | None = None, device: str = "auto") -> Trained:
    """Load the model of a checkpoint of dat-train with the settings of its training, for a script.

    Raises:
        UserError: a file that cannot be read or is not a checkpoint of dat-train.
    """
    checkpoint = Checkpoint.open(ckpt)
    config = trained_with(checkpoint)
    if "kind" not in config.get("data", {}):
        raise UserError(f"{ckpt} has no training settings; use timm.create_model and load_weights")
    return assemble(Settings(config), checkpoint, ema, device)


def assemble(settings: Settings, checkpoint: Checkpoint, ema: bool | None, device: str) -> Trained:
    """Build the classifier of `settings` with the weights in the checkpoint.

    Args:
        settings: as of a training run, for example from `CommandLine.settings_for`.
        ema: as in `load_weights`.
        device: name of the device, or auto.

    Raises:
        UserError: weights of another architecture, or without a classifier.
    """
    if settings.get("task", "classification") not in CLASSIFIERS:
        raise UserError(
            f"{checkpoint.path} was trained with task={settings.task}: dat-eval, dat-predict and dat-visualize take "
            "it, and in Python dat_train.commands.trained_dense; this command takes classifiers"
        )
    number = classifier_size(settings, checkpoint)
    names = class_names(checkpoint.classes, number)
    return Trained.load(build_model(settings, number), names, settings, checkpoint=checkpoint, ema=ema, device=device)


def classifier_size(settings: Settings, checkpoint: Checkpoint) -> int:
    """Number of classes of the checkpoint's classifier.

    Raises:
        UserError: the checkpoint has no classifier.
    """
    number, path = count_classes(checkpoint, classifiers(settings.model.timm_name)), checkpoint.path
    if number is None:
        raise UserError(f"{path} has no classifier: it is a backbone; fine-tune it first, with init={path}")
    return number


def class_names(known: Sequence[str], number: int) -> list[str]:
    """Names of `number` classes for display: `known` if given; else ImageNet's for 1000 classes; else numbers.

    WordNet ids, as ImageNet's folders are called, become words.
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
