"""TensorBoard and Weights & Biases: they get the rows of metrics.jsonl, and can never end a run."""

import os
import secrets
from collections.abc import Callable, Sequence
from pathlib import Path

from dat_train.training.run_log import Logger

WANDB_PATIENCE = 30.0  # seconds to reach the server at the start, and to upload the rest at the end
NOT_LOGGED = ("step", "epoch")  # the axes


class TensorBoardLogger:
    """Event files under `folder`, which `tensorboard --logdir runs` finds.

    Steps that come a second time, in a resumed run or one that went back, replace their former ones.

    Args:
        step: steps done so far.
    """

    def __init__(self, folder: Path, step: int = 0) -> None:
        self.folder = folder
        self._open(step)

    def _open(self, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # events from purge_step on are dropped by the reader; whoever killed the process before may have left some
        self._writer = SummaryWriter(self.folder, purge_step=step + 1)
        self._step = step

    def log_step(self, row: dict) -> None:
        if row["step"] <= self._step:
            self._writer.close()
            self._open(row["step"] - 1)
        self._step = row["step"]
        self._add("train", {name: row[name] for name in row if name not in NOT_LOGGED}, row)

    def log_validation(self, row: dict) -> None:
        self._add("validation", {name: row[name] for name in row if name not in NOT_LOGGED}, row)
        self._writer.flush()  # a validation is when one looks

    def sync(self) -> None:
        """What came before a checkpoint comes no second time."""
        self._writer.flush()

    def _add(self, group: str, values: dict, row: dict) -> None:
        for name, value in values.items():
            if value is not None:  # a skipped step's loss
                self._writer.add_scalar(f"{group}/{name.replace('val_', '')}", value, row["step"])

    def close(self) -> None:
        self._writer.close()


class WandbLogger:
    """A Weights & Biases run; one that was killed is continued under the same id, which `folder` keeps.

    Never asks for a login and never waits long: without a known login, or when the server does not answer, the run is
    written to `folder`/wandb, and `wandb sync` uploads it later.

    Args:
        name: of the run; project: it belongs to; config: to show beside it.
        mode: "online" or "offline"; None: WANDB_MODE, else online where a login is known.
        say: called with a line that says where the run is.
    """

    def __init__(
        self, folder: Path, *, name: str, project: str, config: dict, mode: str | None, say: Callable[[str], None]
    ) -> None:
        import wandb

        folder.mkdir(parents=True, exist_ok=True)
        self._wandb = wandb
        mode = mode or os.environ.get("WANDB_MODE") or "online"
        if mode == "online" and not wandb.login(prompt=False, verify=False):
            say("W&B: no login is known here; logging offline")
            mode = "offline"
        start = {"dir": str(folder), "id": _run_id(folder / "wandb_id"), "name": name, "project": project}
        start["config"] = config
        try:
            self._run = self._init(start, mode)
        except wandb.errors.Error as error:
            if mode == "offline":
                raise
            say(f"W&B: the server cannot be used ({str(error).splitlines()[0]}); logging offline")
            self._run = self._init(start, mode := "offline")
        if mode == "online":
            say(f"W&B: {self._run.url}")
        elif mode == "offline":
            say(f"W&B: offline; to upload: wandb sync {Path(self._run.dir).parent}")

    def _init(self, start: dict, mode: str):
        return self._wandb.init(
            **start,
            mode=mode,
            resume="allow" if mode == "online" else None,
            settings=self._wandb.Settings(
                console="off",  # the terminal is the progress bar's
                silent=True,
                init_timeout=WANDB_PATIENCE,
                finish_timeout=WANDB_PATIENCE,
            ),
        )

    def log_step(self, row: dict) -> None:
        self._log(row, {f"train/{name}": value for name, value in row.items() if name not in NOT_LOGGED})

    def log_validation(self, row: dict) -> None:
        values = {name.replace("val_", ""): value for name, value in row.items() if name not in NOT_LOGGED}
        self._log(row, {f"validation/{name}": value for name, value in values.items()})

    def _log(self, row: dict, values: dict) -> None:
        """A row that W&B has already is the same row: a run is a function of its configuration."""
        if row["step"] < self._run.step:
            return
        known = {name: value for name, value in values.items() if value is not None}
        self._run.log({"epoch": row["epoch"], **known}, step=row["step"])

    def sync(self) -> None:
        """Nothing: W&B's own process writes, and outlives this one."""

    def close(self) -> None:
        self._run.finish()


class Careful:
    """A logger that says once when it fails, and is left alone from then on.

    Args:
        title: for the line.
        make: opens the logger.
        warn: called with the line.
    """

    def __init__(self, title: str, make: Callable[[], Logger], warn: Callable[[str], None]) -> None:
        self.title = title
        self.warn = warn
        self.failed = False
        self._logger = self._try(make)

    def log_step(self, row: dict) -> None:
        self._try(lambda: self._logger.log_step(row))

    def log_validation(self, row: dict) -> None:
        self._try(lambda: self._logger.log_validation(row))

    def sync(self) -> None:
        self._try(lambda: self._logger.sync())

    def close(self) -> None:
        self._try(lambda: self._logger.close())

    def _try(self, action: Callable[[], Logger | None]) -> Logger | None:
        if self.failed:
            return None
        try:
            return action()
        except Exception as error:  # whatever it is, training matters more
            self.failed = True
            reason = (str(error).splitlines() or [""])[0]
            self.warn(f"{self.title} failed ({type(error).__name__}: {reason}); the run goes on without it")
            return None


def open_loggers(
    folder: Path,
    *,
    step: int,
    name: str,
    config: dict,
    tensorboard: bool,
    wandb: bool,
    wandb_project: str,
    wandb_mode: str | None,
    say: Callable[[str], None],
    warn: Callable[[str], None],
) -> Sequence[Logger]:
    """The loggers that are asked for, none of which can fail; for the main process only.

    Args:
        folder: of the run.
        step: steps done so far.
        name, config: of the run, to show.
        say, warn: called with lines for the terminal.
    """
    loggers = []
    if tensorboard:
        loggers.append(Careful("TensorBoard", lambda: TensorBoardLogger(folder / "tensorboard", step), warn))
    if wandb:

        def make() -> Logger:
            return WandbLogger(folder, name=name, project=wandb_project, config=config, mode=wandb_mode, say=say)

        loggers.append(Careful("W&B", make, warn))
    return loggers


def _run_id(path: Path) -> str:
    """The id in the file; a new one at first."""
    if not path.exists():
        path.write_text(secrets.token_hex(4) + "\n")
    return path.read_text().strip()
