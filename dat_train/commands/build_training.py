"""The training loop of a run from its settings: plan, state, logs and checkpoints."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import nn
from torch.utils.data import Dataset

from dat_train.choices import CLASSIFIERS
from dat_train.commands.build_data import evaluation_batches, micro_batches
from dat_train.data.dataset import ImageDataset
from dat_train.data.micro_batches import SampleKey
from dat_train.data.scenes.detection_dataset import pad_batch
from dat_train.models.kernels import is_accelerated
from dat_train.runtime.environment import environment
from dat_train.runtime.precision import Precision
from dat_train.settings import Settings
from dat_train.training.checkpoint_writer import CheckpointWriter
from dat_train.training.ema import Ema
from dat_train.training.loggers.logger import About, FailSafeLogger, Logger
from dat_train.training.loggers.mlflow import MlflowLogger
from dat_train.training.loggers.tensorboard import TensorBoardLogger
from dat_train.training.loggers.wandb import WandbLogger
from dat_train.training.loop import LoopOptions, Training
from dat_train.training.optimizer import build_optimizer
from dat_train.training.plan import RunPlan
from dat_train.training.run_context import RunContext
from dat_train.training.run_log import RunLog
from dat_train.training.run_pictures import RunPictures
from dat_train.training.schedule import Schedule
from dat_train.training.state import TrainState
from dat_train.training.task import Task
from dat_train.viewer.offsets import OffsetMonitor

OFFSET_IMAGES = 16  # validation images on which offsets are measured
OFFSET_SCENES = 4  # the same for segmentation and detection


def run_plan(config: Settings, train_size: int, world_size: int) -> RunPlan:
    """Build the plan for a training set of `train_size` samples."""
    return RunPlan(
        train_size=train_size,
        epochs=config.epochs,
        max_steps=config.max_steps,
        batch_size=config.batch_size,
        micro_batch_size=config.micro_batch_size,
        world_size=world_size,
        schedule=Schedule(base_lr=config.optim.lr, **config.schedule),
        length=config.steps,
        eval_steps=config.eval.every_steps,
        pairs=config.task in CLASSIFIERS and mixes(config),
    )


def mixes(config: Settings) -> bool:
    """Return True if mixup or cutmix mix images of the run."""
    mixing = config.mixing
    return bool(mixing.mixup or mixing.cutmix) and mixing.off_epoch != 0


def build_state(config: Settings, model: nn.Module, precision: Precision, classes: Sequence[str]) -> TrainState:
    """Build the state before the first step."""
    return TrainState(
        model,
        build_optimizer(model, **config.optim),
        precision.scaler(),
        Ema(model, **config.ema) if config.ema.decay else None,
        classes=classes,
        config=config.plain(),
    )


def build_training(
    config: Settings,
    context: RunContext,
    *,
    state: TrainState,
    task: Task,
    plan: RunPlan,
    precision: Precision,
    sets: tuple[ImageDataset, ImageDataset],
) -> Training:
    """Build the training loop; `sets` are training and validation set."""
    train_set, val_set = sets
    processes = context.processes
    loggers = build_loggers(config, context, state.step)
    log = RunLog(context, plan, loggers)
    return Training(
        context=context,
        state=state,
        task=task,
        plan=plan,
        make_loader=partial(micro_batches, config, train_set, plan, processes),
        val_loader=evaluation_batches(config, val_set, processes),
        options=LoopOptions(
            seed=config.seed,
            clip_grad=config.clip_grad,
            eval_every=config.eval.every_epochs,
            log_every=config.log.every,
            max_unreadable=config.data.max_unreadable,
            nonfinite_limit=config.nonfinite_limit,
            timeout_minutes=config.timeout_minutes,
            compile=config.compile and not is_accelerated(state.model),
        ),
        log=log,
        checkpoints=CheckpointWriter(
            context.folder,
            **config.checkpoint,
            step_on_disk=state.step if context.folder.last.exists() else None,
            before=log.sync,
            warn=context.terminal.warn,
        )
        if processes.is_main
        else None,
        offsets=offset_monitor(config, val_set, precision) if processes.is_main else None,
        pictures=RunPictures(context, loggers) if loggers else None,
    )


def offset_monitor(config: Settings, val_set: Dataset, precision: Precision) -> OffsetMonitor | None:
    """Build the measurement of the offsets, on images from the whole validation set.

    Images of segmentation and detection have different sizes: each is a batch of its own.
    """
    if not config.inspect.every:
        return None
    dense = config.task not in CLASSIFIERS
    number = min(OFFSET_SCENES if dense else OFFSET_IMAGES, len(val_set))
    keys = [SampleKey(0, i * len(val_set) // number, 0) for i in range(number)]

    def batches() -> list[torch.Tensor]:
        samples = [val_set[key] for key in keys]
        if config.task == "segmentation":
            batches = [sample.views[0][None] for sample in samples if sample.views]
        elif dense:
            batches = [pad_batch([sample.image])[0] for sample in samples]
        else:
            batches = [torch.stack([sample.image for sample in samples])]
        return [batch.to(precision.device, precision.weights_dtype) for batch in batches]

    return OffsetMonitor(config.inspect.every, batches)


def build_loggers(config: Settings, context: RunContext, step: int) -> Sequence[Logger]:
    """Open the loggers of the settings, in the main process.

    Args:
        step: steps done so far.
    """
    log, folder, terminal, processes = config.log, context.folder.path, context.terminal, context.processes
    if not processes.is_main:
        return ()
    about = About(config.name, config.plain(), environment(processes.device, processes.world_size))
    wanted: dict[str, Callable[[], Logger]] = {}
    if log.tensorboard:
        wanted["TensorBoard"] = lambda: TensorBoardLogger(folder / "tensorboard", step, about)
    if log.wandb:
        settings = {"project": log.wandb_project, "mode": log.wandb_mode, "say": terminal.say}
        wanted["W&B"] = lambda: WandbLogger(folder, about, **settings)
    if log.mlflow:
        wanted["MLflow"] = lambda: MlflowLogger(folder, about, experiment=log.mlflow_experiment, uri=log.mlflow_uri)
    return [FailSafeLogger(title, make, terminal.warn) for title, make in wanted.items()]
