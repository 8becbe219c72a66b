"""A real training run of a second or two: a tiny DAT on fake images, with all parts of `dat-train`."""

import multiprocessing.forkserver
import os
import socket
import sys
from pathlib import Path

import timm
import torch

import dat_train.models  # noqa: F401  registers dat_nano
from dat_train.data.augment import eval_transform, train_transform
from dat_train.data.loader import evaluation_loader, train_loader
from dat_train.data.micro_batches import MicroBatchSampler
from dat_train.data.mixing import Mixing
from dat_train.data.storages.sources import open_datasets
from dat_train.runtime.precision import resolve_precision
from dat_train.runtime.processes import Processes, start_processes, stop_processes
from dat_train.runtime.stop_request import StopRequest
from dat_train.runtime.terminal import Terminal
from dat_train.tasks.classification import ImageClassification, Images
from dat_train.tasks.losses import cross_entropy
from dat_train.training.checkpoint_writer import CheckpointWriter
from dat_train.training.ema import Ema
from dat_train.training.loop import LoopOptions, Training
from dat_train.training.optimizer import build_optimizer
from dat_train.training.plan import RunPlan
from dat_train.training.resume import open_run, restore, resume_mode
from dat_train.training.run_context import RunContext
from dat_train.training.run_folder import RunFolder
from dat_train.training.run_log import RunLog
from dat_train.training.schedule import Schedule
from dat_train.training.state import TrainState

CLASSES = 4
MEAN, STD = (0.5,) * 3, (0.25,) * 3
ALONE = Processes(0, 1, 0, torch.device("cpu"))


def tiny_model(**kwargs) -> torch.nn.Module:
    """A DAT of 30 thousand parameters, with window and deformable attention, dropout and drop path."""
    torch.manual_seed(0)
    shape = {"dims": (8, 16, 16, 24), "depths": (1, 1, 2, 1), "num_heads": (1, 2, 2, 3), "groups": (1, 1, 2, 1)}
    drop = {"drop_path_rate": 0.2, "proj_drop_rate": 0.1, "attn_drop_rate": 0.1}
    return timm.create_model("dat_nano", num_classes=CLASSES, **(shape | drop | kwargs))


def small_training(
    path: Path,
    *,
    processes: Processes = ALONE,
    stop: StopRequest | None = None,
    resume: str = "auto",
    dtype: str = "fp32",
    epochs: int = 3,
    max_steps: int | None = None,
    batch_size: int = 16,
    micro_batch_size: int = 4,
    images: int = 50,
    workers: int = 0,
    decay: float = 0.9,
    every_minutes: float = 10,
    keep: int = 0,
    optimizer: str = "adamw",
    model: torch.nn.Module | None = None,
    **settings,
) -> Training:
    """A run of 3 epochs of 3 steps by default, from the start or from the checkpoint in its folder."""
    folder = RunFolder(path)
    terminal = Terminal(screen=False)
    context = RunContext(folder, processes, terminal, stop or StopRequest())
    lines, terminal.say = [], lambda text: lines.append(text)
    resume = resume_mode(resume, context.folder)
    saved = open_run(context, resume)
    del terminal.say
    terminal.log_path = folder.log if processes.is_main else None
    for line in lines:
        terminal.say(line)
    train_set, val_set = open_datasets(
        "fake", image_size=32, fake_images=images, fake_classes=CLASSES, val_fraction=0.7
    )
    train_set.transform = train_transform(32, scale=(0.5, 1), rand_augment="rand-m9-mstd0.5-inc1", mean=MEAN, std=STD)
    val_set.transform = eval_transform(32, crop_pct=1.0, mean=MEAN, std=STD)
    plan = RunPlan(
        train_size=len(train_set),
        epochs=epochs,
        max_steps=max_steps,
        batch_size=batch_size,
        micro_batch_size=micro_batch_size,
        world_size=processes.world_size,
        schedule=Schedule(warmup_epochs=1, base_lr=1e-3, warmup_lr=1e-5, min_lr=1e-5),
    )
    precision = resolve_precision(dtype, processes.device)
    model = (model or tiny_model()).to(precision.weights_dtype)
    state = TrainState(
        model,
        build_optimizer(model, name=optimizer, lr=1e-3, weight_decay=0.05),
        precision.scaler(),
        Ema(model, decay) if decay else None,
        config={"seed": 0},
    )
    restore(state, saved, context, resume)
    log = RunLog(context, plan)
    layout = {"rank": processes.rank, "world_size": processes.world_size}

    def make_loader(first_step: int):
        sampler = MicroBatchSampler(
            len(train_set),
            seed=0,
            batch_size=batch_size,
            micro_batch_size=micro_batch_size,
            first_step=first_step,
            last_step=plan.steps,
            **layout,
        )
        return train_loader(train_set, sampler, workers=workers)

    checkpoints = None
    if processes.is_main:
        on_disk = state.step if folder.last.exists() else None
        checkpoints = CheckpointWriter(
            folder, every_minutes=every_minutes, keep=keep, step_on_disk=on_disk, before=log.sync, warn=terminal.warn
        )
    task = ImageClassification(
        range(CLASSES),
        Images(32, MEAN, STD),
        precision=precision,
        mixing=settings.pop("mixing", None) or Mixing(CLASSES, mixup=0.8, cutmix=1.0, label_smoothing=0.1),
        objective=settings.pop("objective", cross_entropy),
    )
    options = {"log_every": 2} | settings
    options = {name: options.pop(name) for name in LoopOptions.__dataclass_fields__ if name in options}
    return Training(
        **{
            "context": context,
            "state": state,
            "task": task,
            "make_loader": make_loader,
            "val_loader": evaluation_loader(val_set, batch_size=8, workers=workers, **layout),
            "plan": plan,
            "options": LoopOptions(**options),
            "log": log,
            "checkpoints": checkpoints,
        }
        | {name: value for name, value in settings.items() if name not in options}
    )


def run_small(path: Path, **settings) -> bool:
    """Run `small_training` in one process and unlock the folder."""
    training = small_training(path, **settings)
    try:
        return training.run()
    finally:
        training.log.close()
        training.log.folder.unlock()


def warm_context() -> multiprocessing.context.ForkServerContext:
    """Multiprocessing context of a fork server that has imported `training.warm`."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["training.warm"])
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)  # the server looks for what to preload nowhere else
    multiprocessing.forkserver.ensure_running()
    os.environ.pop("PYTHONPATH") if before is None else os.environ.update(PYTHONPATH=before)
    return context


def in_processes(world_size: int, function, *arguments) -> None:
    """Run `function(processes, *arguments)` in `world_size` processes that form a group, and wait for them."""
    context = warm_context()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    children = [
        context.Process(target=_member, args=(rank, world_size, port, function, arguments))
        for rank in range(world_size)
    ]
    for child in children:
        child.start()
    for child in children:
        child.join(120)
    assert [child.exitcode for child in children] == [0] * world_size


def _member(rank: int, world_size: int, port: int, function, arguments: tuple) -> None:
    torch.set_num_threads(1)
    names = {
        "RANK": rank,
        "LOCAL_RANK": rank,
        "WORLD_SIZE": world_size,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
    }
    os.environ |= {name: str(value) for name, value in names.items()}
    function(start_processes("cpu", timeout_minutes=1), *arguments)
    stop_processes()
