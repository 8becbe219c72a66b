"""Data sets and loaders of a run of any task from its settings."""

from collections.abc import Callable, Collection, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from PIL.Image import Image
from torch import Tensor
from torch.utils.data import Dataset

from dat_train.data.augment import eval_transform, train_transform
from dat_train.data.dataset import ImageDataset
from dat_train.data.loader import Batch, evaluation_loader, train_loader
from dat_train.data.micro_batches import GroupedSampler, MicroBatchSampler
from dat_train.data.scenes.coco import CocoFile, open_coco, trainable
from dat_train.data.scenes.dense_transforms import segmentation_train_transform
from dat_train.data.scenes.detection_dataset import DetectionEvalTransform, DetectionImages, DetectionTrainTransform
from dat_train.data.scenes.segmentation_dataset import EvaluationImages, SegmentationImages
from dat_train.data.scenes.segmentation_sources import open_segmentation
from dat_train.data.storages.sources import open_datasets
from dat_train.errors import UserError
from dat_train.runtime.environment import usable_cores
from dat_train.runtime.processes import Processes
from dat_train.settings import Settings
from dat_train.training.plan import RunPlan

VIEW = ("resize", "crop_pct", "interpolation")  # settings in `eval` that affect the preprocessing of images
MAX_WORKERS = 8  # maximum number of data workers of a training process; more are rarely faster
Opened = TypeVar("Opened")


def opened_in_all_processes(open_data: Callable[[], Opened], processes: Processes) -> Opened:
    """Open data in every process; the main one first, because opening may write files (the digits, an index)."""
    opened = []
    processes.on_main(lambda: opened.append(open_data()))
    return opened[0] if opened else open_data()


# Classification


def classification_datasets(config: Settings, processes: Processes) -> tuple[ImageDataset, ImageDataset]:
    """Training and validation set with their transforms."""
    data = config.data
    open_them = partial(open_datasets, data.kind, data.root, split_by=data.split_by, **source_arguments(config))
    train_set, val_set = opened_in_all_processes(open_them, processes)
    train_set.seed = config.seed
    colors = data.only("mean", "std", "background")
    train_set.transform = train_transform(config.img_size, **config.augment.without("name"), **colors)
    val_set.transform = evaluation_transform(config)
    return train_set, val_set


def multilabel_datasets(config: Settings, processes: Processes) -> tuple[ImageDataset, ImageDataset]:
    """Training and validation set of a multi-label run with their transforms.

    Raises:
        UserError: data without several labels per image, or without labels.
    """
    sets = classification_datasets(config, processes)
    for images, part in zip(sets, ("training", "validation"), strict=True):
        require_targets(images, config.data.name)
        if not images.targets.any():
            raise UserError(f"data.root={config.data.root}: no image of the {part} set has a label")
    return sets


def require_targets(images: ImageDataset, data: str) -> None:
    """Raise a UserError for data with one label per image."""
    if images.targets is None:
        raise UserError(
            f"task=multilabel needs a table of images and labels, and data={data} has one label per image: set "
            "data=csv data.root=TABLE.csv"
        )


def source_arguments(config: Settings) -> dict[str, Any]:
    """Arguments that `open_datasets` and `open_evaluation_set` have in common."""
    names = ("val_fraction", "split_seed", "fake_images", "fake_classes", "image_column", "label_column")
    return {
        "image_size": config.img_size,
        "multi_label": config.task == "multilabel",
        **config.data.only(*names),
    }


def evaluation_transform(config: Settings) -> Callable[[Image], Tensor]:
    """Transform of the images of an evaluation."""
    return eval_transform(config.img_size, **config.eval.only(*VIEW), **config.data.only("mean", "std", "background"))


# Segmentation and detection


def scene_datasets(config: Settings, processes: Processes, parts: Sequence[str] = ("train", "val")) -> list[Dataset]:
    """Training and validation set of segmentation or detection with their transforms.

    Args:
        parts: parts to open; the images of the others may be missing.

    Raises:
        UserError: data that cannot be used, or an object without the mask that the detector needs.
    """

    def opened() -> list:
        data = config.data
        if config.task == "detection":
            return open_coco(data.kind, data.root, data.split_seed, parts)
        return open_segmentation(
            data.kind, data.root, **data.only("classes", "val_fraction", "split_seed"), parts=parts
        )

    prepared = _segmentation_part if config.task == "segmentation" else _detection_part
    found = zip(parts, opened_in_all_processes(opened, processes), strict=True)
    return [prepared(config, images, training=part == "train") for part, images in found]


def _segmentation_part(
    config: Settings, images: SegmentationImages, *, training: bool
) -> SegmentationImages | EvaluationImages:
    dense, normalization = config.dense, config.data.only("mean", "std")
    if not training:
        return EvaluationImages(images, limits=dense.limits, scales=dense.scales, **normalization)
    images.seed = config.seed
    images.transform = segmentation_train_transform(
        limits=dense.limits,
        ratio=dense.ratio,
        crop=config.img_size,
        max_share=dense.max_share,
        hflip=config.augment.hflip,
        photometric=dense.photometric,
        **normalization,
    )
    return images


def _detection_part(config: Settings, part: tuple[Path, CocoFile], *, training: bool) -> DetectionImages:
    """Images of one part, after a check of some images, and of all masks if the detector has any."""
    dense, (folder, file) = config.dense, part
    short, long = min(dense.limits), max(dense.limits)
    transform = DetectionEvalTransform(short, long)
    if training:
        sides = (dense.short_sides, dense.crop_short_sides or (), long, tuple(dense.crop_sides))
        transform = DetectionTrainTransform(*sides, config.augment.hflip)
    with_masks = dense.head != "retinanet"
    images = DetectionImages(
        folder,
        file,
        trainable(file) if training else file.images,
        transform=transform,
        **config.data.only("mean", "std"),
        with_masks=with_masks,
        training=training,
        seed=config.seed,
    )
    images.check_some()
    if with_masks:
        file.check_masks(training)
    return images


# Loaders


def micro_batches(
    config: Settings, train_set: ImageDataset, plan: RunPlan, processes: Processes, first_step: int
) -> Iterable[Batch]:
    """Micro-batches of this process from `first_step` on."""
    order = {
        "seed": config.seed,
        "batch_size": plan.batch_size,
        "micro_batch_size": plan.micro_batch_size,
        "first_step": first_step,
        "last_step": plan.steps,
        "rank": processes.rank,
        "world_size": processes.world_size,
    }
    if isinstance(train_set, DetectionImages):
        sampler = GroupedSampler(train_set.upright(), **order)
    else:
        sampler = MicroBatchSampler(
            len(train_set),
            repeats=config.data.repeats,
            labels=train_set.samples.labels if config.data.sampling == "balanced" else None,
            storage_order=train_set.storage_order() if config.data.shuffle == "blocks" else None,
            read_ahead=train_set.read_ahead if config.data.shuffle == "blocks" else None,
            **order,
        )
    pinned = processes.device.type == "cuda"
    return train_loader(train_set, sampler, workers=workers(config, processes), pin_memory=pinned)


def evaluation_batches(config: Settings, val_set: Dataset, processes: Processes) -> Collection[Batch]:
    """Part of the evaluation set for this process, in batches of config.eval.batch_size."""
    return evaluation_loader(
        val_set,
        batch_size=config.eval.batch_size,
        rank=processes.rank,
        world_size=processes.world_size,
        workers=workers(config, processes),
        pin_memory=processes.device.type == "cuda",
    )


def workers(config: Settings, processes: Processes) -> int:
    """Data processes of this training process."""
    if config.data.workers is not None:
        return config.data.workers
    share = usable_cores() // processes.local_world_size
    return min(MAX_WORKERS, max(1, share))
