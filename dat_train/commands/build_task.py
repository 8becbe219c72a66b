"""Task of a run from its settings: loss, evaluation and data sets."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import timm
import torch
from timm.data import resolve_data_config
from torch import nn
from torch.utils.data import Dataset

from dat_train.choices import CLASSIFIERS
from dat_train.commands.build_data import classification_datasets, multilabel_datasets, scene_datasets
from dat_train.commands.build_model import require_model
from dat_train.commands.load_trained import open_trained
from dat_train.data.dataset import ImageDataset
from dat_train.data.mixing import Mixing, MultiHotMixing
from dat_train.data.scenes.detection_dataset import DetectionImages
from dat_train.data.scenes.segmentation_dataset import SegmentationImages
from dat_train.errors import UserError
from dat_train.models.kernels import accelerate
from dat_train.models.weights.loading import load_weights
from dat_train.models.weights.weights_file import FOLDER, HUB
from dat_train.runtime.precision import Precision
from dat_train.runtime.processes import Processes
from dat_train.settings import Settings, flat
from dat_train.tasks.classification import ImageClassification, Images, Objective
from dat_train.tasks.detection import ObjectDetection
from dat_train.tasks.distillation import Distillation
from dat_train.tasks.losses import BinaryCrossEntropy, balanced_weights, cross_entropy, positive_weights
from dat_train.tasks.multilabel import MultiLabelClassification
from dat_train.tasks.segmentation import SemanticSegmentation
from dat_train.training.task import Score, Task

SINGLE_LABEL = ("classification",)
# Settings of some tasks only: the value without effect, the tasks that have it, and the advice in the error message.
OF_TASKS = {
    "loss.name": ("cross_entropy", CLASSIFIERS, "remove it"),
    "loss.target_threshold": (None, CLASSIFIERS, "remove it"),
    "loss.sum_classes": (False, CLASSIFIERS, "remove it"),
    "loss.class_weights": (None, CLASSIFIERS, "segmentation has dense.class_weights=[...]"),
    "data.sampling": ("uniform", SINGLE_LABEL, "for several labels per image loss.class_weights=balanced weights them"),
    "data.shuffle": ("full", CLASSIFIERS, "remove it"),
    "optim.head_lr_factor": (1.0, CLASSIFIERS, "remove it"),
    "distill.teacher": (None, SINGLE_LABEL, "remove it"),
    "distill.weights": (None, SINGLE_LABEL, "remove it"),
}


@dataclass(frozen=True)
class TaskBuilders:
    """Functions that build the parts of a task. A new task is added to BUILDERS.

    Args:
        datasets: training and validation set. They have `classes`, `fingerprint()`, and `collate` if their samples
            are not those of `ImageDataset`.
        task: loss and evaluation, for a training set.
        score: score of the task's evaluations.
    """

    datasets: Callable[[Settings, Processes], Sequence[Dataset]]
    task: Callable[[Settings, Dataset, Precision], Task]
    score: Score


def task_builders(config: Settings) -> TaskBuilders:
    """Return the builders of config.task.

    Raises:
        UserError: a setting that the task does not have.
    """
    task, values = config.task, flat(config)
    for key, (without_effect, tasks, advice) in OF_TASKS.items():
        value = values.get(key, without_effect)
        if task not in tasks and value != without_effect:
            of = " and ".join(f"task={name}" for name in tasks)
            raise UserError(f"{key}={value} is for {of}, not task={task}; {advice}")
    return BUILDERS[task]


def classification(config: Settings, train_set: ImageDataset, precision: Precision) -> ImageClassification:
    """Build the classification task.

    Raises:
        UserError: the teacher for distillation does not exist, or is for other images or classes; or settings that
            exclude each other.
    """
    mixing = Mixing(len(train_set.classes), **mixing_arguments(config, train_set))
    arguments = {"precision": precision, "mixing": mixing, "objective": objective(config, train_set, precision)}
    return ImageClassification(train_set.classes, model_images(config), **arguments)


def multilabel(config: Settings, train_set: ImageDataset, precision: Precision) -> MultiLabelClassification:
    """Build the multi-label classification task. Its loss is binary cross-entropy, whatever loss.name is."""
    mixing, weights, loss = MultiHotMixing(**mixing_arguments(config, train_set)), None, config.loss
    if loss.class_weights:
        weights = positive_weights(train_set.targets).to(precision.device, precision.weights_dtype)
    objective = BinaryCrossEntropy(loss.target_threshold, loss.sum_classes, weights)
    arguments = {"precision": precision, "mixing": mixing, "objective": objective}
    return MultiLabelClassification(train_set.classes, model_images(config), **arguments)


def segmentation(config: Settings, train_set: SegmentationImages, precision: Precision) -> SemanticSegmentation:
    """Build the segmentation task.

    Raises:
        UserError: class weights that are not one for each class, or UPerNet with one image at a time.
    """
    if config.dense.head == "upernet" and config.micro_batch_size == 1:
        raise UserError(
            "micro_batch_size=1 is not possible with dense.head=upernet: batch normalization of its 1 x 1 map needs "
            f"two images; set micro_batch_size=2 (batch_size={config.batch_size} stays) or dense.head=semantic_fpn"
        )
    return SemanticSegmentation(
        train_set.classes,
        config.img_size,
        config.data.mean,
        config.data.std,
        precision=precision,
        aux_weight=config.dense.aux_weight,
        class_weights=config.dense.class_weights,
        flip=config.dense.flip,
    )


def detection(config: Settings, train_set: DetectionImages, precision: Precision) -> ObjectDetection:
    """Build the detection task."""
    short, long = min(config.dense.limits), max(config.dense.limits)
    size, data = (short, min(long, short * 4 // 3)), config.data
    with_masks = train_set.with_masks
    return ObjectDetection(train_set.classes, size, data.mean, data.std, precision=precision, with_masks=with_masks)


def model_images(config: Settings) -> Images:
    return Images(config.img_size, config.data.mean, config.data.std)


def mixing_arguments(config: Settings, train_set: ImageDataset) -> dict[str, Any]:
    """Arguments of `Mixing` other than the number of classes."""
    epoch = config.mixing.off_epoch
    off_step = None if epoch is None else epoch * (len(train_set) // config.batch_size)
    return config.mixing.without("off_epoch") | {"off_step": off_step}


def objective(config: Settings, train_set: ImageDataset, precision: Precision) -> Objective:
    """Build the loss: cross-entropy (weighted by class or not), binary cross-entropy, or distillation with a teacher.

    Raises:
        UserError: settings that exclude each other, or a teacher that does not fit.
    """
    loss, distill = config.loss, config.distill
    if loss.name == "bce":
        for name, value in (("loss.class_weights", loss.class_weights), *distill.only("teacher", "weights").items()):
            if value is not None:
                key = name if "." in name else f"distill.{name}"
                raise UserError(f"loss.name=bce and {key}={value} exclude each other; set one of them")
        return BinaryCrossEntropy(loss.target_threshold, loss.sum_classes)
    if loss.target_threshold is not None or loss.sum_classes:
        raise UserError(f"loss.target_threshold and loss.sum_classes belong to loss.name=bce, not to {loss.name}")
    has_teacher = distill.teacher is not None or distill.weights is not None
    if loss.class_weights is not None:
        if config.data.sampling == "balanced":
            raise UserError(
                "loss.class_weights=balanced and data.sampling=balanced both balance the classes; set one of them"
            )
        if has_teacher:
            raise UserError("loss.class_weights=balanced is not possible with a teacher; data.sampling=balanced is")
        weights = balanced_weights(train_set.samples.labels, len(train_set.classes))
        return partial(cross_entropy, weights=weights.to(precision.device, precision.weights_dtype))
    return distillation(config, train_set.classes, precision) if has_teacher else cross_entropy


def distillation(config: Settings, classes: Sequence[str], precision: Precision) -> Distillation:
    """Build the loss of knowledge distillation.

    Raises:
        UserError: the teacher does not exist, or is for other images or classes.
    """
    distill = config.distill
    teacher, mean, std = _teacher(distill.teacher, distill.weights, classes, len(config.data.mean))
    accelerate(teacher.to(precision.device, precision.weights_dtype), precision.device)
    loss = Distillation(
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
    _check_teacher(loss, distill.teacher or distill.weights, config.img_size, len(config.data.mean), len(classes))
    return loss


def _teacher(
    name: str | None, weights: str | None, classes: Sequence[str], channels: int
) -> tuple[nn.Module, Sequence[float], Sequence[float]]:
    """Return the teacher with its weights, and mean and standard deviation of its normalization."""
    if name is None:
        trained = open_trained(weights, device="cpu")
        if trained.classes != list(classes):
            raise UserError(f"the teacher {weights} has other classes: {', '.join(trained.classes)[:80]}")
        return trained.model, trained.settings.data.mean, trained.settings.data.std

    if not name.startswith((FOLDER, HUB)):
        require_model(name, "distill.teacher")
    try:
        if weights is None:  # timm's own, downloaded once
            teacher = timm.create_model(name, pretrained=True)
        else:
            teacher = timm.create_model(name, num_classes=len(classes), in_chans=channels)
    except (RuntimeError, OSError, ValueError, AssertionError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise UserError(f"distill.teacher={name} cannot be loaded ({reason}); or set distill.weights=PATH") from None
    if weights is not None:
        report = load_weights(teacher, weights)
        if report.classes not in (None, len(classes)):
            raise UserError(f"distill.weights={weights} has {report.classes} classes, the data {len(classes)}")
    data = resolve_data_config({}, model=teacher)
    return teacher, data["mean"], data["std"]


def _check_teacher(distillation: Distillation, name: str, img_size: int, channels: int, classes: int) -> None:
    """Call the teacher with one image, to report errors before the run starts."""
    precision = distillation.precision
    image = torch.zeros(1, channels, img_size, img_size, dtype=precision.weights_dtype, device=precision.device)
    try:
        answers = distillation.answers(image)
    except (RuntimeError, AssertionError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise UserError(
            f"the teacher {name} does not take images of {channels} x {img_size} x {img_size} ({reason}); "
            "choose another teacher or img_size"
        ) from None
    if answers.shape != (1, classes):
        raise UserError(f"the teacher {name} has {answers.shape[1]:,} classes, the data has {classes:,}")


BUILDERS = {
    "classification": TaskBuilders(classification_datasets, classification, ImageClassification.score),
    "multilabel": TaskBuilders(multilabel_datasets, multilabel, MultiLabelClassification.score),
    "segmentation": TaskBuilders(scene_datasets, segmentation, SemanticSegmentation.score),
    "detection": TaskBuilders(scene_datasets, detection, ObjectDetection.score),
}
