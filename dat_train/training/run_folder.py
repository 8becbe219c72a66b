"""Folder of a run: names of its files, lock, checkpoints, and rows of .jsonl files."""

import json
import os
import shutil
import socket
import time
from collections.abc import Callable
from pathlib import Path

from dat_train.atomic import sync_folder
from dat_train.errors import UserError
from dat_train.models.weights.checkpoint import Checkpoint, CheckpointError

try:
    import fcntl
except ModuleNotFoundError:  # Windows
    fcntl = None

LOCK_SECONDS = 3.0  # seconds; the lock of a killed process may remain for a moment, especially on NFS
RESTART_SECONDS = 60.0  # seconds after a restart by torchrun: the former rank 0 may still run on another machine


class RunFolder:
    """runs/NAME/ and its files."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.yaml"
        self.metrics = path / "metrics.jsonl"
        self.timing = path / "timing.jsonl"
        self.summary = path / "summary.json"
        self.curves = path / "curves.png"
        self.log = path / "log.txt"
        self.checkpoints = path / "checkpoints"
        self.last = self.checkpoints / "last.pt"
        self.best = self.checkpoints / "best.pt"
        self._lock = None

    def picture(self, name: str) -> Path:
        """Path of a picture: "batch" or one of `Evaluation.pictures`."""
        return self.path / f"{name}.png"

    def create(self) -> None:
        """Create the folders.

        Raises:
            UserError: the parent folder cannot be written, or a folder has the name of a file of the run.
        """
        try:
            self.checkpoints.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"the run's folder {self.path} cannot be created ({error.strerror}); set runs_dir or name"
            ) from error
        files = (self.config, self.metrics, self.timing, self.summary, self.curves, self.log, self.last, self.best)
        taken = next((path for path in files if path.is_dir()), None)
        if taken:
            raise UserError(
                f"{taken} is a folder, and the run writes a file there; rename it, or choose another name=..."
            )

    def move_aside(self) -> Path | None:
        """Rename the folder of an earlier run to NAME.old-N. Returns None if there is none."""
        if not self.path.exists():
            return None
        number = 1
        while (old := self.path.with_name(f"{self.path.name}.old-{number}")).exists():
            number += 1
        self.path.rename(old)
        return old

    def lock(self) -> None:
        """Lock the folder for this process until the process ends.

        This is a POSIX record lock: the kernel releases it with the process, forked data workers do not inherit it,
        and NFS servers apply it to other machines. Without effect on Windows and on file systems without locks.

        Raises:
            UserError: another process trains in this folder.
        """
        if fcntl is None:
            return
        file = (self.path / ".lock").open("a+", encoding="utf-8")
        restarted = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0))
        deadline = time.monotonic() + (RESTART_SECONDS if restarted else LOCK_SECONDS)
        while True:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except (BlockingIOError, PermissionError) as error:
                if time.monotonic() > deadline:
                    file.seek(0)
                    raise UserError(
                        f"another process trains in {self.path} ({file.read().strip() or 'unknown'}); wait for it, "
                        "stop it, or choose another name=..."
                    ) from error
                time.sleep(0.1)
            except OSError:
                break
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        self._lock = file  # closing the file would release the lock

    def unlock(self) -> None:
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def history(self) -> list[Path]:
        """Older checkpoints (checkpoint.keep), newest first."""
        return sorted(self.checkpoints.glob("last-*.pt"), reverse=True)

    def newest_checkpoint(
        self, warn: Callable[[str], None], good: Callable[[dict], bool] = lambda saved: True
    ) -> Path | None:
        """Return the newest valid checkpoint that is good: last.pt, or the most advanced other one, or None.

        Args:
            warn: called with a line for every damaged file, and if the checkpoint is not last.pt.
            good: condition on the content of a checkpoint.

        Raises:
            UserError: checkpoints exist, but all are damaged.
        """
        steps, damaged = {}, False
        for path in filter(Path.exists, (self.last, self.best, *self.history())):
            try:
                saved = Checkpoint.open(path).training_state()
            except CheckpointError as error:
                warn(str(error))
                damaged = True
                continue
            if good(saved):
                steps[path] = saved["step"]
                if path == self.last:
                    return path
        if damaged and not steps:
            raise UserError(f"all checkpoints in {self.checkpoints} are damaged; resume=never starts a new run")
        newest = max(steps, key=steps.get, default=None)
        if newest:
            warn(f"continuing from {newest}, step {steps[newest]:,}")
        return newest

    def make_last(self, path: Path) -> None:
        """Replace last.pt by a copy of the checkpoint `path`.

        Raises:
            UserError: the folder cannot be written.
        """
        self._replace(self.last, path)

    def make_best(self, path: Path, step: int | None) -> bool:
        """Let best.pt be the checkpoint of `step`, if it is best.pt, `path`, or the best.pt next to `path`.

        Args:
            path: checkpoint from which the run continues.
            step: of the best validation so far; None before the first.

        Returns:
            False if no file has that step. A best.pt of another step is renamed to best-abandoned.pt.

        Raises:
            UserError: the folder cannot be written.
        """
        if step is not None and _step(self.best) == step:
            return True
        if self.best.exists():
            self.best.replace(self.best.with_name("best-abandoned.pt"))
        for candidate in (path, path.with_name(self.best.name)):
            if step is not None and _step(candidate) == step:
                self._replace(self.best, candidate)
                return True
        return step is None

    def _replace(self, target: Path, source: Path) -> None:
        """Replace `target` by a link to, or a copy of, `source`."""
        if source.resolve() == target.resolve():
            return
        replacement = target.with_name(f".{target.name}.new")
        try:
            replacement.unlink(missing_ok=True)
            link(source, replacement)
            replacement.replace(target)
            sync_folder(self.checkpoints)
        except OSError as error:
            raise UserError(f"{target} cannot be replaced ({error.strerror}); make the folder writable") from error

    def truncate_metrics(self, step: int, validated: bool) -> None:
        """Remove the rows of metrics.jsonl after `step` steps, and a validation at `step` unless `validated`.

        Rows are in the order of writing, so the file is truncated at the first row to remove. An incomplete row of a
        killed process is removed too.
        """
        if not self.metrics.exists():
            return
        keep = 0
        with self.metrics.open("rb") as file:
            for line in file:
                row = parse_row(line)
                if row is None or row["step"] > step or (row["step"] == step and is_validation(row) and not validated):
                    break
                keep += len(line)
        if keep < self.metrics.stat().st_size:
            os.truncate(self.metrics, keep)
            sync_folder(self.path)


def _step(path: Path) -> int | None:
    """Step of a checkpoint; None if it is missing or damaged."""
    try:
        return Checkpoint.open(path).content.get("step")
    except CheckpointError:
        return None


def link(source: Path, target: Path) -> None:
    """Create a hard link, or a copy if the file system has no hard links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def is_validation(row: dict) -> bool:
    """True for the row of a validation in metrics.jsonl, False for that of a step."""
    return "lr" not in row


def parse_row(line: bytes) -> dict | None:
    """Parse a line of a .jsonl file. Returns None if it was not written completely."""
    if not line.endswith(b"\n"):
        return None
    try:
        return json.loads(line)
    except ValueError:
        return None


def read_rows(path: Path) -> list[dict]:
    """Return all complete rows of a .jsonl file; none if the file does not exist."""
    if not path.exists():
        return []
    with path.open("rb") as file:
        return [row for row in map(parse_row, file) if row is not None]
