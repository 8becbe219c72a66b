"""Data sets, models and tasks of segmentation and detection from their settings."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import nn

import dat_train.models  # noqa: F401  registers the models
from dat_train.choices import DETECTORS
from dat_train.commands.build_data import opened_by_all, sets_of_all
from dat_train.data.randomness import keyed_seed
from dat_train.data.scenes.coco import CocoFile, open_coco, trainable
from dat_train.data.scenes.dense_transforms import segmentation_train_transform
from dat_train.data.scenes.detection_dataset import DetectionEvalTransform, DetectionImages, DetectionTrainTransform
from dat_train.data.scenes.segmentation_dataset import EvaluationImages, SegmentationImages
from dat_train.data.scenes.segmentation_sources import open_segmentation
from dat_train.errors import UserError
from dat_train.models.detection.rcnn import create_detector
from dat_train.models.segmentation import create_segmentation
from dat_train.runtime.precision import Precision
from dat_train.runtime.processes import Processes
from dat_train.settings import Settings
from dat_train.tasks.detection import ObjectDetection
from dat_train.tasks.segmentation import SemanticSegmentation


def segmentation_datasets(config: Settings, processes: Processes) -> tuple[SegmentationImages, EvaluationImages]:
    """Training and validation set of a segmentation run with their transforms."""
    data, dense = config.data, config.dense
    train_set, val_images = sets_of_all(partial(_open, config), processes)
    train_set.seed = config.seed
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
    return train_set, _segmentation_validation(config, val_images)


def validation_set(config: Settings, processes: Processes) -> EvaluationImages | DetectionImages:
    """Validation set of a segmentation or detection run; the training images need not be there."""
    (opened,) = opened_by_all(partial(_open, config, parts=("val",)), processes)
    if config.task == "segmentation":
        return _segmentation_validation(config, opened)
    return _detection_validation(config, *opened)


def _open(config: Settings, **parts: Sequence[str]) -> list:
    """Parts of the data as `open_segmentation` or `open_coco` returns them."""
    data = config.data
    if config.task == "detection":
        return open_coco(data.kind, data.root, data.split_seed, **parts)
    arguments = {"classes": data.get("classes"), **data.only("val_fraction", "split_seed")}
    return open_segmentation(data.kind, data.root, **arguments, **parts)


def _segmentation_validation(config: Settings, images: SegmentationImages) -> EvaluationImages:
    data, dense = config.data, config.dense
    return EvaluationImages(images, limits=dense.limits, scales=dense.scales, mean=data.mean, std=data.std)


def dense_model(config: Settings, num_classes: int) -> nn.Module:
    """Segmentation model or detector with random weights that follow from the seed."""
    model, dense, segmenting = config.model, config.dense, config.task == "segmentation"
    if (dense.head in DETECTORS) == segmenting:
        raise UserError(f"dense.head={dense.head} does not belong to task={config.task}")
    torch.manual_seed(keyed_seed("init", config.seed))
    arguments = {"img_size": model.img_size, "drop_path_rate": model.drop_path_rate, **model.args}
    if dense.channels:
        arguments["channels"] = dense.channels
    if segmenting:
        arguments["dropout"] = dense.dropout
    create = create_segmentation if segmenting else create_detector
    built = create(model=model.timm_name, head=dense.head, num_classes=num_classes, **arguments)
    built.set_grad_checkpointing(model.grad_checkpointing)
    return built


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
    """Training and validation set of a detection run with their transforms.

    Raises:
        UserError: data that cannot be used, or an object without the mask that the detector needs.
    """
    dense = config.dense
    (folder, file), validation = opened_by_all(partial(_open, config), processes)
    transform = DetectionTrainTransform(
        dense.short_sides,
        dense.crop_short_sides or (),
        max(dense.limits),
        tuple(dense.crop_sides),
        config.augment.hflip,
    )
    train_set = _detection_images(config, folder, file, transform=transform, training=True)
    train_set.groups = train_set.upright()
    return train_set, _detection_validation(config, *validation)


def _detection_validation(config: Settings, folder: Path, file: CocoFile) -> DetectionImages:
    transform = DetectionEvalTransform(min(config.dense.limits), max(config.dense.limits))
    return _detection_images(config, folder, file, transform=transform, training=False)


def _detection_images(
    config: Settings, folder: Path, file: CocoFile, *, transform: Callable, training: bool
) -> DetectionImages:
    """Images of one part, after a check of some images, and of all masks if the detector has any."""
    with_masks = config.dense.head != "retinanet"
    images = DetectionImages(
        folder,
        file,
        trainable(file) if training else file.images,
        transform=transform,
        mean=config.data.mean,
        std=config.data.std,
        with_masks=with_masks,
        training=training,
        seed=config.seed,
    )
    images.check_some()
    if with_masks:
        file.check_masks(training)
    return images


def detection_task(config: Settings, train_set: DetectionImages, precision: Precision) -> ObjectDetection:
    """The detection task."""
    short, long = min(config.dense.limits), max(config.dense.limits)
    size, data = (short, min(long, short * 4 // 3)), config.data
    with_masks = train_set.with_masks
    return ObjectDetection(train_set.classes, size, data.mean, data.std, precision=precision, with_masks=with_masks)
