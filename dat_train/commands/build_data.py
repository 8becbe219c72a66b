"""Data sets and loaders of a run from its settings."""

from collections.abc import Callable, Collection, Iterable
from functools import partial
from typing import Any, TypeVar

from PIL.Image import Image
from torch import Tensor
from torch.utils.data import Dataset

from dat_train.data.augment import eval_transform, train_transform
from dat_train.data.dataset import ImageDataset
from dat_train.data.loader import Batch, evaluation_loader, train_loader
from dat_train.data.order import GroupedSampler, MicroBatchSampler
from dat_train.data.storages.sources import open_datasets
from dat_train.errors import UserError
from dat_train.runtime.environment import usable_cores
from dat_train.runtime.processes import Processes
from dat_train.settings import Settings
from dat_train.training.plan import RunPlan

VIEW = ("resize", "crop_pct", "interpolation")  # settings in `eval` that affect the preprocessing of images
Opened = TypeVar("Opened")
MAX_WORKERS = 8  # maximum number of data workers of a training process; more are rarely faster


def datasets(config: Settings, processes: Processes) -> tuple[ImageDataset, ImageDataset]:
    """Training and validation set with their transforms."""
    data = config.data
    open_them = partial(open_datasets, data.kind, data.root, split_by=data.split_by, **source_arguments(config))
    train_set, val_set = sets_of_all(open_them, processes)
    train_set.seed = config.seed
    colours = data.only("mean", "std", "background")
    train_set.transform = train_transform(config.img_size, **config.augment.without("name"), **colours)
    val_set.transform = evaluation_transform(config)
    return train_set, val_set


def multilabel_datasets(config: Settings, processes: Processes) -> tuple[ImageDataset, ImageDataset]:
    """Training and validation set of a multi-label run with their transforms.

    Raises:
        UserError: data without several labels per image, or without labels.
    """
    sets = datasets(config, processes)
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
        "multi_label": config.get("task") == "multilabel",
        **config.data.only(*names),
    }


def opened_by_all(open_data: Callable[[], Opened], processes: Processes) -> Opened:
    """Open data in every process; the main one first, because opening may write files (the digits, an index)."""
    opened = []
    processes.on_main(lambda: opened.append(open_data()))
    return opened[0] if opened else open_data()


def sets_of_all(open_sets: Callable[[], tuple], processes: Processes) -> tuple:
    """Open training and validation set in every process, and check that all have the same images."""
    sets = opened_by_all(open_sets, processes)
    if processes.world_size > 1:  # each machine may have its own copy
        for part, images in zip(("training", "validation"), sets, strict=True):
            if hasattr(images, "fingerprint"):
                processes.check_same(f"{len(images):,} images, {images.fingerprint()}", f"{part} set")
    return sets


def evaluation_transform(config: Settings) -> Callable[[Image], Tensor]:
    """Transform of the images of an evaluation."""
    return eval_transform(config.img_size, **config.eval.only(*VIEW), **config.data.only("mean", "std", "background"))


def micro_batches(
    config: Settings, train_set: ImageDataset, plan: RunPlan, processes: Processes, first_step: int
) -> Iterable[Batch]:
    """This process' micro-batches from `first_step` on."""
    order = {
        "seed": config.seed,
        "batch_size": plan.batch_size,
        "micro_batch_size": plan.micro_batch_size,
        "first_step": first_step,
        "last_step": plan.steps,
        "rank": processes.rank,
        "world_size": processes.world_size,
    }
    groups = getattr(train_set, "groups", None)
    if groups is None:
        sampler = MicroBatchSampler(
            len(train_set),
            repeats=config.data.repeats,
            labels=train_set.samples.labels if config.data.sampling == "balanced" else None,
            storage_order=train_set.storage_order() if config.data.shuffle == "blocks" else None,
            read_ahead=train_set.read_ahead if config.data.shuffle == "blocks" else None,
            **order,
        )
    else:
        sampler = GroupedSampler(groups, **order)
    pinned = processes.device.type == "cuda"
    return train_loader(train_set, sampler, workers=workers(config, processes), pin_memory=pinned)


def evaluation_batches(config: Settings, val_set: Dataset, processes: Processes) -> Collection[Batch]:
    """This process' share of a set to evaluate, in batches of config.eval.batch_size."""
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
