"""Data sets and loaders of a run from its settings."""

import os
from collections.abc import Iterable
from functools import partial

from dat_train.data.augment import eval_transform, train_transform
from dat_train.data.dataset import ImageDataset
from dat_train.data.loader import Batch, train_loader
from dat_train.data.order import MicroBatchSampler
from dat_train.data.sources import open_datasets
from dat_train.runtime.processes import Processes
from dat_train.settings import Settings
from dat_train.training.plan import RunPlan

VIEW = ("resize", "crop_pct", "interpolation")  # settings in `eval` of how an image is shown to the model
MAX_WORKERS = 8  # data processes of a training process; more rarely help


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
        split_by="order",
        fake_images=data.fake_images,
        fake_classes=data.fake_classes,
    )
    opened = []  # by the main process before the others, for the digits are written on opening
    processes.on_main(lambda: opened.append(open_them()))
    train_set, val_set = opened[0] if opened else open_them()
    if processes.world_size > 1:  # each machine may have a copy of its own
        for part, images in (("training", train_set), ("validation", val_set)):
            processes.check_same(f"{len(images):,} images, {images.fingerprint()}", f"{part} set")
    train_set.seed = config.seed
    normalization = data.only("mean", "std")
    train_set.transform = train_transform(config.img_size, **config.augment.arguments(), **normalization)
    val_set.transform = eval_transform(config.img_size, **config.eval.only(*VIEW), **normalization)
    return train_set, val_set


def micro_batches(
    config: Settings, train_set: ImageDataset, plan: RunPlan, processes: Processes, first_step: int
) -> Iterable[Batch]:
    """This process' micro-batches from `first_step` on."""
    sampler = MicroBatchSampler(
        len(train_set),
        seed=config.seed,
        batch_size=plan.batch_size,
        micro_batch_size=plan.micro_batch_size,
        first_step=first_step,
        last_step=plan.steps,
        rank=processes.rank,
        world_size=processes.world_size,
        repeats=config.data.repeats,
    )
    pinned = processes.device.type == "cuda"
    return train_loader(train_set, sampler, workers=workers(config, processes), pin_memory=pinned)


def workers(config: Settings, processes: Processes) -> int:
    """Data processes of this training process."""
    if config.data.workers is not None:
        return config.data.workers
    share = len(os.sched_getaffinity(0)) // processes.local_world_size
    return min(MAX_WORKERS, max(1, share))
