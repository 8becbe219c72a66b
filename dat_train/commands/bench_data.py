"""dat-bench data: speed of the input pipeline on the user's own images, compared with timm's loader."""

import os
import platform
from pathlib import Path

import timm
import torch
from rich.console import Console

from dat_train.benchmark.input_pipeline import cores_needed, loader_speeds, ratios, stage_times
from dat_train.benchmark.tables import data_tables, write_json
from dat_train.data.augment import train_transform
from dat_train.data.dataset import ImageDataset
from dat_train.data.storages.sources import open_datasets
from dat_train.errors import UserError
from dat_train.settings import Settings


def run(config: Settings) -> None:
    """Measure and print stages, loaders and the cores that GPUs need.

    Raises:
        UserError: no data set, or one without image files.
    """
    torch.set_num_threads(1)  # as in a data worker
    dataset = images(config)
    stages = stage_times(dataset, config.batch_size, config.repeats)
    speeds = loader_speeds(
        dataset,
        config.workers,
        **config.only("images", "batch_size"),
        rounds=config.repeats,
        augment=timms_arguments(config),
    )
    alone = min(config.workers)
    per_core = next(speed.images_per_core for speed in speeds if speed.workers == alone)
    cores = cores_needed(per_core)
    metadata = {
        "cpu": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "timm": timm.__version__,
        "images": len(dataset),
    }
    console = Console()
    console.print(
        f"{metadata['cores']} cores, {len(dataset)} images, batch {config.batch_size}, augment={config.augment.name}"
    )
    for table in data_tables(stages, speeds, cores):
        console.print(table)
    if config.json:
        rows = [vars(speed) | ratios(speeds, speed.workers) for speed in speeds]
        write_json(Path(config.json), metadata | {"settings": config.plain(), "stages": stages, "cores": cores}, rows)


def images(config: Settings) -> ImageDataset:
    """Open the training set of config.data, and take at most config.images of it, evenly spaced."""
    data = config.data
    if not data.kind:
        raise UserError("dat-bench data measures image files: add data=NAME data.root=FOLDER")
    if data.kind == "fake":
        raise UserError("data=fake has no image files to measure; take another data=NAME")
    if len(data.mean) != 3:
        raise UserError("dat-bench data compares with timm's loader, which has three channels: data.mean, data.std")
    whole, _ = open_datasets(
        data.kind, data.root, val_fraction=data.val_fraction or 0.1, split_seed=data.split_seed or 0, split_by="order"
    )
    if not len(whole):
        raise UserError(f"data={data.name} has no training images to measure")
    number = min(config.images, len(whole))
    chosen = [i * len(whole) // number for i in range(number)]
    colors = {name: value for name, value in data.only("mean", "std", "background").items() if value}
    transform = train_transform(config.img_size or 224, **config.augment.without("name"), **colors)
    dataset = ImageDataset([whole.samples[i] for i in chosen], whole.classes, transform)
    if whole.source is not None:
        dataset.source = whole.source.select(chosen)
    return dataset


def timms_arguments(config: Settings) -> dict:
    """Arguments of timm's create_loader for the same augmentation."""
    augment = config.augment
    return {
        "scale": tuple(augment.scale) if augment.scale else None,
        "ratio": tuple(augment.ratio),
        "interpolation": augment.interpolation,
        "hflip": augment.hflip,
        "vflip": augment.vflip,
        "auto_augment": augment.rand_augment,
        "color_jitter": augment.color_jitter or None,
        "re_prob": augment.random_erasing,
        "re_mode": "pixel",
        "mean": tuple(config.data.mean),
        "std": tuple(config.data.std),
    }
