"""TensorBoard, W&B and MLflow: they get the rows of metrics.jsonl and pictures, and can never end a run."""

from collections.abc import Callable, Sequence
from pathlib import Path

from dat_train.training.loggers.fail_safe import Careful
from dat_train.training.loggers.logger import About, Logger
from dat_train.training.loggers.mlflow import MlflowLogger
from dat_train.training.loggers.tensorboard import TensorBoardLogger
from dat_train.training.loggers.wandb import WandbLogger

__all__ = ["About", "Careful", "Logger", "MlflowLogger", "TensorBoardLogger", "WandbLogger", "open_loggers"]


def open_loggers(
    folder: Path,
    *,
    step: int,
    name: str,
    about: About,
    tensorboard: bool,
    wandb: bool,
    wandb_project: str,
    wandb_mode: str | None,
    mlflow: bool,
    mlflow_uri: str | None,
    mlflow_experiment: str,
    say: Callable[[str], None],
    warn: Callable[[str], None],
) -> Sequence[Logger]:
    """The loggers that are asked for, none of which can fail; for the main process only.

    Args:
        folder: of the run.
        step: steps done so far.
        name, about: of the run, to show.
        say, warn: called with lines for the terminal.
    """
    wanted: list[tuple[str, Callable[[], Logger]]] = []
    if tensorboard:
        wanted.append(("TensorBoard", lambda: TensorBoardLogger(folder / "tensorboard", step, about)))
    if wandb:
        settings = {"name": name, "project": wandb_project, "about": about, "mode": wandb_mode, "say": say}
        wanted.append(("W&B", lambda: WandbLogger(folder, **settings)))
    if mlflow:
        place = {"name": name, "experiment": mlflow_experiment, "about": about, "uri": mlflow_uri}
        wanted.append(("MLflow", lambda: MlflowLogger(folder, **place)))
    return [Careful(title, make, warn) for title, make in wanted]
