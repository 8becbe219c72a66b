"""Data sets and loaders of a run from its settings."""

from collections.abc import Callable, Collection, Iterable
from functools import partial
from typing import Any, TypeVar

from PIL.Image import Image
from torch import Tensor
from torch.utils.data import Dataset

from dat_train.data.augment import eval_transform, train_transform
from dat_train.data.dataset import ImageDataset
from dat_train.data.grouped_order import GroupedSampler
from dat_train.data.loader import Batch, evaluation_loader, train_loader
from dat_train.data.order import MicroBatchSampler
from dat_train.data.sources import open_datasets
from dat_train.runtime.cores import usable_cores
from dat_train.runtime.processes import Processes
from dat_train.settings import Settings
from dat_train.training.plan import RunPlan

VIEW = ("resize", "crop_pct", "interpolation")  # settings in `eval` that affect the preprocessing of images
Opened = TypeVar("Opened")
MAX_WORKERS = 8  # maximum number of data workers of a training process; more are rarely faster


def datasets(config: Settings, processes: Processes) -> tuple[ImageDataset, ImageDataset]:
    """Training and validation set with their transforms."""
    data = config.data
    open_them = partial(
        open_datasets,
        data.kind,
        data.root,
        image_size=config.img_size,
        val_fraction=data.val_fraction,
        split_seed=data.split_seed,
        split_by=data.split_by,
        fake_images=data.fake_images,
        fake_classes=data.fake_classes,
        **table_columns(config),
    )
    train_set, val_set = sets_of_all(open_them, processes)
    train_set.seed = config.seed
    colours = data.only("mean", "std", "background")
    train_set.transform = train_transform(config.img_size, **config.augment.arguments(), **colours)
    val_set.transform = evaluation_transform(config)
    return train_set, val_set


def table_columns(config: Settings) -> dict[str, Any]:
    """Arguments of `open_storage` that say how a table is read."""
    return {"multi_label": config.get("task") == "multilabel", **config.data.only("image_column", "label_column")}


def mixing_off_step(config: Settings, train_size: int) -> int | None:
    """Step from which mixup and cutmix are off; None: never."""
    epoch = config.mixing.off_epoch
    return None if epoch is None else epoch * (train_size // config.batch_size)


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
