"""Data sets, models and tasks of segmentation and detection from their settings."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

import dat_train.models  # noqa: F401  registers the models
from dat_train.choices import DETECTORS
from dat_train.commands.build_data import opened_by_all, sets_of_all
from dat_train.data.coco import open_coco, trainable
from dat_train.data.dense_transforms import segmentation_train_transform
from dat_train.data.detection_dataset import DetectionEvalTransform, DetectionImages, DetectionTrainTransform
from dat_train.data.randomness import keyed_seed
from dat_train.data.segmentation_dataset import EvaluationImages, SegmentationImages
from dat_train.data.segmentation_sources import open_segmentation
from dat_train.errors import UserError
from dat_train.models.detection.rcnn import create_detector
from dat_train.models.segmentation import create_segmentation
from dat_train.runtime.precision import Precision
from dat_train.runtime.processes import Processes
from dat_train.settings import Settings
from dat_train.tasks.detection import ObjectDetection, ObjectList, collate_objects
from dat_train.tasks.segmentation import SceneList, SemanticSegmentation, collate_scenes


def segmentation_datasets(config: Settings, processes: Processes) -> tuple[SegmentationImages, EvaluationImages]:
    """Training and validation set of a segmentation run with their transforms."""
    data, dense = config.data, config.dense
    arguments = {"classes": data.get("classes"), **data.only("val_fraction", "split_seed")}
    train_set, val_images = sets_of_all(partial(open_segmentation, data.kind, data.root, **arguments), processes)
    train_set.seed = config.seed
    train_set.collate = collate_scenes
    train_set.transform = segmentation_train_transform(
        limits=dense.limits,
        ratio=dense.ratio,
        crop=config.img_size,
        max_share=dense.max_share,
        hflip=config.augment.hflip,
        photometric=dense.photometric,
        mean=data.mean,
        std=data.std,
    )
    val_set = EvaluationImages(val_images, limits=dense.limits, scales=dense.scales, mean=data.mean, std=data.std)
    val_set.collate = SceneList
    return train_set, val_set


def segmentation_model(config: Settings, num_classes: int) -> nn.Module:
    """The segmentation model with random weights that follow from the seed."""
    return _model(
        config, lambda **args: create_segmentation(num_classes=num_classes, dropout=config.dense.dropout, **args)
    )


def segmentation_task(config: Settings, train_set: SegmentationImages, precision: Precision) -> SemanticSegmentation:
    """The segmentation task.

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


def detection_datasets(config: Settings, processes: Processes) -> tuple[DetectionImages, DetectionImages]:
    """Training and validation set of a detection run with their transforms."""
    data, dense = config.data, config.dense
    long, short = max(dense.limits), min(dense.limits)
    opened = opened_by_all(partial(open_coco, data.kind, data.root, data.split_seed), processes)
    (train_folder, train_file), (val_folder, val_file) = opened
    numbers: dict[str, Any] = {"mean": data.mean, "std": data.std, "with_masks": with_masks(config)}
    transform = DetectionTrainTransform(
        dense.short_sides, dense.crop_short_sides or (), long, tuple(dense.crop_sides), config.augment.hflip
    )
    train_set = DetectionImages(
        train_folder, train_file, trainable(train_file), transform=transform, seed=config.seed, **numbers
    )
    train_set.collate, train_set.groups = collate_objects, train_set.upright()
    val_set = DetectionImages(
        val_folder, val_file, val_file.images, transform=DetectionEvalTransform(short, long), training=False, **numbers
    )
    val_set.collate = ObjectList
    return train_set, val_set


def detection_model(config: Settings, num_classes: int) -> nn.Module:
    """The detector with random weights that follow from the seed."""
    return _model(config, lambda **args: create_detector(num_classes=num_classes, **args))


def detection_task(config: Settings, train_set: DetectionImages, precision: Precision) -> ObjectDetection:
    short, long = min(config.dense.limits), max(config.dense.limits)
    size = (short, min(long, short * 4 // 3))
    return ObjectDetection(
        train_set.classes, size, config.data.mean, config.data.std, precision=precision, with_masks=with_masks(config)
    )


def with_masks(config: Settings) -> bool:
    return config.dense.head != "retinanet"


def _model(config: Settings, create: Callable[..., nn.Module]) -> nn.Module:
    model, dense = config.model, config.dense
    segmenting = config.task == "segmentation"
    if (dense.head in DETECTORS) == segmenting:
        raise UserError(f"dense.head={dense.head} does not belong to task={config.task}")
    torch.manual_seed(keyed_seed("init", config.seed))
    arguments = {"img_size": model.img_size, "drop_path_rate": model.drop_path_rate, **model.args}
    if dense.channels:
        arguments["channels"] = dense.channels
    built = create(model=model.timm_name, head=dense.head, **arguments)
    built.set_grad_checkpointing(model.grad_checkpointing)
    return built
