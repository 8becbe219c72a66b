"""Loggers (TensorBoard, W&B, MLflow): they receive the rows of metrics.jsonl and pictures, and cannot end a run."""

from collections.abc import Callable, Sequence
from pathlib import Path

from dat_train.runtime.terminal import Terminal
from dat_train.training.loggers.logger import About, FailSafeLogger, Logger
from dat_train.training.loggers.mlflow import MlflowLogger
from dat_train.training.loggers.tensorboard import TensorBoardLogger
from dat_train.training.loggers.wandb import WandbLogger

__all__ = ["About", "FailSafeLogger", "Logger", "MlflowLogger", "TensorBoardLogger", "WandbLogger", "open_loggers"]


def open_loggers(
    folder: Path,
    about: About,
    terminal: Terminal,
    *,
    step: int,
    tensorboard: bool = False,
    wandb: bool = False,
    wandb_project: str = "dat-train",
    wandb_mode: str | None = None,
    mlflow: bool = False,
    mlflow_uri: str | None = None,
    mlflow_experiment: str = "dat-train",
) -> Sequence[Logger]:
    """Open the requested loggers; in the main process only.

    Args:
        folder: of the run.
        about: description of the run.
        terminal: for links and warnings.
        step: steps done so far.
    """
    wanted: list[tuple[str, Callable[[], Logger]]] = []
    if tensorboard:
        wanted.append(("TensorBoard", lambda: TensorBoardLogger(folder / "tensorboard", step, about)))
    if wandb:
        settings = {"project": wandb_project, "mode": wandb_mode, "say": terminal.say}
        wanted.append(("W&B", lambda: WandbLogger(folder, about, **settings)))
    if mlflow:
        wanted.append(("MLflow", lambda: MlflowLogger(folder, about, experiment=mlflow_experiment, uri=mlflow_uri)))
    return [FailSafeLogger(title, make, terminal.warn) for title, make in wanted]
