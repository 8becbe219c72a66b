"""The parts of a run, made from its settings: data, model, optimizer, loop, logs."""

from collections.abc import Sequence
from functools import partial

import torch
from torch import nn

from dat_train.commands.build_data import micro_batches, workers
from dat_train.commands.build_objective import objective
from dat_train.data.dataset import ImageDataset
from dat_train.data.loader import evaluation_loader
from dat_train.data.mixing import Mixing
from dat_train.data.order import SampleKey
from dat_train.runtime.environment import environment
from dat_train.runtime.precision import Precision
from dat_train.runtime.processes import Processes
from dat_train.runtime.stop_request import StopRequest
from dat_train.runtime.terminal import Terminal
from dat_train.settings import Settings
from dat_train.training.ema import Ema
from dat_train.training.loggers import About, Logger, open_loggers
from dat_train.training.loop import Training
from dat_train.training.optimizer import build_optimizer
from dat_train.training.plan import RunPlan
from dat_train.training.resume import go_back
from dat_train.training.run_folder import RunFolder
from dat_train.training.run_log import RunLog
from dat_train.training.run_pictures import RunPictures
from dat_train.training.state import TrainState
from dat_train.training.writer import CheckpointWriter
from dat_train.viewer.offsets import OffsetMonitor

OFFSET_IMAGES = 16  # validation images on which offsets are measured


def run_plan(config: Settings, train_size: int, processes: Processes) -> RunPlan:
    return RunPlan(
        train_size=train_size,
        epochs=config.epochs,
        max_steps=config.max_steps,
        batch_size=config.batch_size,
        micro_batch_size=config.micro_batch_size,
        world_size=processes.world_size,
        base_lr=config.optim.lr,
        **config.schedule,
    )


def new_state(config: Settings, model: nn.Module, precision: Precision, classes: Sequence[str]) -> TrainState:
    return TrainState(
        model,
        build_optimizer(model, **config.optim),
        precision.scaler(),
        Ema(model, config.ema.decay) if config.ema.decay else None,
        classes=classes,
    )


def new_training(
    config: Settings,
    folder: RunFolder,
    processes: Processes,
    terminal: Terminal,
    stop: StopRequest,
    plan: RunPlan,
    precision: Precision,
    state: TrainState,
    sets: tuple[ImageDataset, ImageDataset],
) -> Training:
    train_set, val_set = sets
    classes = len(train_set.classes)
    others = loggers(config, folder, processes, terminal, state.step)
    log = RunLog(folder, plan, processes, terminal, others)
    pictures = RunPictures(folder, others, train_set.classes, config.data.mean, config.data.std, terminal.warn)
    return Training(
        state=state,
        make_loader=partial(micro_batches, config, train_set, plan, processes),
        val_loader=evaluation_loader(
            val_set,
            batch_size=config.eval.batch_size,
            rank=processes.rank,
            world_size=processes.world_size,
            workers=workers(config, processes),
            pin_memory=processes.device.type == "cuda",
        ),
        plan=plan,
        mixing=Mixing(classes, **config.mixing),
        image_shape=(len(config.data.mean), config.img_size, config.img_size),
        precision=precision,
        objective=objective(config, train_set.classes, precision),
        num_classes=classes,
        seed=config.seed,
        clip_grad=config.clip_grad,
        max_unreadable=config.data.max_unreadable,
        nonfinite_limit=config.nonfinite_limit,
        eval_every=config.eval.every_epochs,
        config=config.plain(),
        processes=processes,
        log=log,
        checkpoints=checkpoint_writer(config, folder, terminal, log, state.step) if processes.is_main else None,
        go_back=partial(go_back, state, folder, processes, terminal.warn),
        stop=stop,
        log_every=config.log.every,
        offsets=offset_watch(config, val_set, precision) if processes.is_main else None,
        pictures=pictures if others else None,
        compile=config.compile,
    )


def offset_watch(config: Settings, val_set: ImageDataset, precision: Precision) -> OffsetMonitor | None:
    """Who looks at the offsets, on images from all over the validation set."""
    if not config.inspect.every:
        return None
    number = min(OFFSET_IMAGES, len(val_set))
    keys = [SampleKey(0, i * len(val_set) // number, 0) for i in range(number)]

    def images() -> torch.Tensor:
        return torch.stack([val_set[key].image for key in keys]).to(precision.device, precision.weights)

    return OffsetMonitor(config.inspect.every, images)


def loggers(
    config: Settings, folder: RunFolder, processes: Processes, terminal: Terminal, step: int
) -> Sequence[Logger]:
    if not processes.is_main:
        return ()
    return open_loggers(
        folder.path,
        step=step,
        name=config.name,
        about=About(config.plain(), environment(processes.device, processes.world_size)),
        tensorboard=config.log.tensorboard,
        wandb=config.log.wandb,
        wandb_project=config.log.wandb_project,
        wandb_mode=config.log.wandb_mode,
        mlflow=config.log.mlflow,
        mlflow_uri=config.log.mlflow_uri,
        mlflow_experiment=config.log.mlflow_experiment,
        say=terminal.say,
        warn=terminal.warn,
    )


def checkpoint_writer(
    config: Settings, folder: RunFolder, terminal: Terminal, log: RunLog, step: int
) -> CheckpointWriter:
    return CheckpointWriter(
        folder,
        every_minutes=config.checkpoint.every_minutes,
        keep=config.checkpoint.keep,
        step_on_disk=step if folder.last.exists() else None,
        before=log.sync,
        warn=terminal.warn,
    )
