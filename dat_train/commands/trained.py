"""Trained model without its data set, for commands and scripts that apply it to other images."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL.Image import Image
from timm.data import ImageNetInfo
from torch import Tensor, nn

from dat_train.choices import CLASSIFIERS
from dat_train.commands.build_data import VIEW
from dat_train.commands.build_model import classifiers, new_model
from dat_train.commands.checkpoint_settings import trained_with
from dat_train.data.augment import eval_transform
from dat_train.data.class_names import IMAGENET_CLASSES
from dat_train.errors import UserError
from dat_train.models.checkpoint import Checkpoint
from dat_train.models.weights import LoadReport, count_classes, load_weights
from dat_train.runtime.precision import Precision, resolve_precision
from dat_train.runtime.processes import resolve_device
from dat_train.settings import Settings


@dataclass(frozen=True)
class Trained:
    """Trained model with its class names and transform.

    Attributes:
        model: in evaluation mode, on `precision.device`, in `precision.weights`.
        classes: names by class number.
        transform: PIL image, RGB -> tensor (3, img_size, img_size), normalised.
        settings: settings of a training run. The model and the transform depend on model, img_size, eval, data.mean and
            data.std.
        precision: number formats; provides the autocast context of the model.
        weights: source of the weights, and changes made to fit them to the model.
    """

    model: nn.Module
    classes: list[str]
    transform: Callable[[Image], Tensor]
    settings: Settings
    precision: Precision
    weights: LoadReport

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
    """Build the model of `settings` with the weights in the checkpoint.

    Args:
        settings: as of a training run, for example from `Request.settings_for`.

    Raises:
        UserError: weights of another architecture, or without a classifier.
    """
    if settings.get("task", "classification") not in CLASSIFIERS:
        raise UserError(
            f"{checkpoint.path} was trained with task={settings.task}: dat-eval, dat-predict and dat-visualize take "
            "it, and in Python dat_train.commands.trained_dense; this command takes classifiers"
        )
    number = count_classes(checkpoint, classifiers(settings.model.timm_name))
    if number is None:
        path = checkpoint.path
        raise UserError(f"{path} has no classifier: it is a backbone; fine-tune it first, with init={path}")
    precision = resolve_precision(settings.dtype, resolve_device(device))
    model = new_model(settings, number)
    weights = load_weights(model, checkpoint, ema=ema)
    transform = eval_transform(
        settings.img_size, **settings.eval.only(*VIEW), **settings.data.only("mean", "std", "background")
    )
    return Trained(
        model.to(precision.device, precision.weights).eval(),
        class_names(checkpoint.classes, number),
        transform=transform,
        settings=settings,
        precision=precision,
        weights=weights,
    )


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
