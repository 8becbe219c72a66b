"""Weights & Biases."""

import os
import secrets
from collections.abc import Callable
from pathlib import Path

from dat_train.atomic import write_text
from dat_train.training.loggers.logger import About, named_values

WANDB_SECONDS = 30.0  # seconds to reach the server at the start, and to upload the rest at the end


class WandbLogger:
    """Weights & Biases run. A killed run is continued under the same id, which is stored in `folder`.

    There is no login prompt and no long wait: without stored credentials, or if the server does not answer, the run is
    written to `folder`/wandb, and `wandb sync` uploads it later.

    Args:
        about: description of the run.
        project: name of the W&B project.
        mode: "online" or "offline"; None: WANDB_MODE, else online if a login is known.
        say: called with a line about the location of the run.
    """

    def __init__(
        self, folder: Path, about: About, *, project: str, mode: str | None, say: Callable[[str], None]
    ) -> None:
        import wandb

        folder.mkdir(parents=True, exist_ok=True)
        self._wandb = wandb
        mode = mode or os.environ.get("WANDB_MODE") or "online"
        if mode == "online" and not wandb.login(prompt=False, verify=False):
            say("W&B: no login is known; logging offline")
            mode = "offline"
        start = {"dir": str(folder), "id": _run_id(folder / "wandb_id"), "name": about.name, "project": project}
        start["config"] = about.config | {"environment": about.environment}
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
                console="off",  # the progress bar uses the terminal
                silent=True,
                init_timeout=WANDB_SECONDS,
                finish_timeout=WANDB_SECONDS,
            ),
        )

    def log(self, group: str, row: dict) -> None:
        """Skip rows that W&B already has. They are identical, because runs are reproducible."""
        if row["step"] >= self._run.step:
            self._run.log({"epoch": row["epoch"], **named_values(group, row)}, step=row["step"])

    def log_picture(self, name: str, path: Path, step: int) -> None:
        if step >= self._run.step:
            self._run.log({name: self._wandb.Image(str(path))}, step=step)

    def sync(self) -> None:
        """No operation: a separate process of W&B writes the files, also after this process has ended."""

    def close(self) -> None:
        self._run.finish()


def _run_id(path: Path) -> str:
    """Read the id from the file; create it the first time."""
    if not path.exists() or not path.read_text(encoding="utf-8").strip():
        write_text(path, secrets.token_hex(4) + "\n")
    return path.read_text(encoding="utf-8").strip()
