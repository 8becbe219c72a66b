"""Parts of a training run that begin with somebody's weights: those it starts from, and a teacher's."""

import difflib
from collections.abc import Callable, Sequence

import timm
import torch
from timm.data import resolve_data_config
from torch import Tensor, nn

from dat_train.commands.trained import open_trained
from dat_train.errors import UserError
from dat_train.models.kernels import accelerate
from dat_train.models.weights import load_weights
from dat_train.models.weights_file import FOLDER, HUB
from dat_train.runtime.precision import Precision
from dat_train.settings import Settings
from dat_train.training.objective import Distillation, cross_entropy

Objective = Callable[[Tensor, Tensor, Tensor], Tensor]


def objective(config: Settings, classes: Sequence[str], precision: Precision) -> Objective:
    """What the run minimises: cross-entropy, or with it the distance to a teacher's answers.

    Raises:
        UserError: no such teacher, or one for other images or classes.
    """
    distill = config.distill
    if distill.teacher is None and distill.weights is None:
        return cross_entropy
    teacher, mean, std = _teacher(distill.teacher, distill.weights, classes, len(config.data.mean))
    accelerate(teacher.to(precision.device, precision.weights), precision.device)
    distillation = Distillation(
        teacher,
        kind=distill.kind,
        alpha=distill.alpha,
        tau=distill.tau,
        precision=precision,
        mean=config.data.mean,
        std=config.data.std,
        teacher_mean=mean,
        teacher_std=std,
    )
    _try(distillation, distill.teacher or distill.weights, config.img_size, len(config.data.mean), len(classes))
    return distillation


def _teacher(
    name: str | None, weights: str | None, classes: Sequence[str], channels: int
) -> tuple[nn.Module, Sequence[float], Sequence[float]]:
    """A teacher with its weights, and the mean and standard deviation its images are normalised with."""
    if name is None:
        trained = open_trained(weights, device="cpu")
        if trained.classes != list(classes):
            raise UserError(f"the teacher {weights} knows other classes: {', '.join(trained.classes)[:80]}")
        return trained.model, trained.settings.data.mean, trained.settings.data.std

    if not name.startswith((FOLDER, HUB)) and not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=3)
        hint = f"; did you mean {', '.join(near)}?" if near else ""
        raise UserError(f"distill.teacher={name} is no timm model{hint}")
    try:
        if weights is None:  # timm's own, downloaded once
            teacher = timm.create_model(name, pretrained=True)
        else:
            teacher = timm.create_model(name, num_classes=len(classes), in_chans=channels)
    except (RuntimeError, OSError, ValueError, AssertionError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise UserError(f"distill.teacher={name} cannot be had ({reason}); or distill.weights=PATH") from None
    if weights is not None:
        report = load_weights(teacher, weights)
        if report.classes not in (None, len(classes)):
            raise UserError(f"distill.weights={weights} has {report.classes} classes, the data {len(classes)}")
    data = resolve_data_config({}, model=teacher)
    return teacher, data["mean"], data["std"]


def _try(distillation: Distillation, name: str, img_size: int, channels: int, classes: int) -> None:
    """Show the teacher one image before the run relies on it."""
    precision = distillation.precision
    image = torch.zeros(1, channels, img_size, img_size, dtype=precision.weights, device=precision.device)
    try:
        answers = distillation.answers(image)
    except (RuntimeError, AssertionError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise UserError(
            f"the teacher {name} takes no images of {channels} x {img_size} x {img_size} ({reason}); choose another "
            "teacher or img_size"
        ) from None
    if answers.shape != (1, classes):
        raise UserError(f"the teacher {name} knows {answers.shape[1]:,} classes, the data has {classes:,}")
