"""A run's folder: where everything lies, who may write there, and what a resumed run finds."""

import fcntl
import json
import os
import shutil
import socket
import time
from collections.abc import Callable
from pathlib import Path

from dat_train.atomic import sync_folder
from dat_train.errors import UserError
from dat_train.models.checkpoint import Checkpoint, CheckpointError

LOCK_PATIENCE = 3.0  # seconds; the lock of a process that was just killed may take a moment to go, over NFS above all
RESTART_PATIENCE = 60.0  # after torchrun's restart: the former rank 0 may be on a machine that has yet to notice


class RunFolder:
    """runs/NAME/ and the names in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.yaml"
        self.metrics = path / "metrics.jsonl"
        self.timing = path / "timing.jsonl"
        self.summary = path / "summary.json"
        self.curves = path / "curves.png"
        self.log = path / "log.txt"
        self.batch_picture = path / "batch.png"
        self.confusion = path / "confusion.png"
        self.checkpoints = path / "checkpoints"
        self.last = self.checkpoints / "last.pt"
        self.best = self.checkpoints / "best.pt"
        self._lock = None

    def create(self) -> None:
        """Make the folders.

        Raises:
            UserError: the place cannot be written.
        """
        try:
            self.checkpoints.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"the run's folder {self.path} cannot be made ({error.strerror}); set runs_dir or name"
            ) from error

    def move_aside(self) -> Path | None:
        """Rename an earlier run's folder to NAME.old-N, so that a fresh one can start; None if there is none."""
        if not self.path.exists():
            return None
        number = 1
        while (old := self.path.with_name(f"{self.path.name}.old-{number}")).exists():
            number += 1
        self.path.rename(old)
        return old

    def lock(self) -> None:
        """Keep every other process out until this one ends, however it ends.

        A POSIX record lock: the kernel drops it with the process, forked data workers do not inherit it, and NFS
        servers pass it on to other machines. On a file system without locks nothing is guarded.

        Raises:
            UserError: another process trains in this folder.
        """
        file = (self.path / ".lock").open("a+")
        restarted = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0))
        deadline = time.monotonic() + (RESTART_PATIENCE if restarted else LOCK_PATIENCE)
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
        self._lock = file  # closing the file would open the lock

    def unlock(self) -> None:
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def history(self) -> list[Path]:
        """Older checkpoints that were kept, newest first."""
        return sorted(self.checkpoints.glob("last-*.pt"), reverse=True)

    def newest_checkpoint(
        self, warn: Callable[[str], None], good: Callable[[dict], bool] = lambda saved: True
    ) -> Path | None:
        """The newest whole and good checkpoint: last.pt, else what comes closest; None without any.

        Args:
            warn: called with a line about every damaged file, and when it is not last.pt that is used.
            good: takes a checkpoint's content.

        Raises:
            UserError: there are checkpoints, and none is whole.
        """
        whole, damaged = {}, []
        for path in (self.last, self.best, *self.history()):
            if not path.exists():
                continue
            try:
                saved = Checkpoint.open(path).training_state()
            except CheckpointError as error:
                warn(str(error))
                damaged.append(path)
                continue
            if path == self.last and good(saved):
                return path
            if good(saved):
                whole[path] = saved["step"]
        if damaged and not whole:
            raise UserError(f"no checkpoint in {self.checkpoints} is whole; resume=never starts the run afresh")
        if not whole:
            return None
        newest = max(whole, key=whole.get)
        warn(f"going on from {newest}, step {whole[newest]:,}")
        return newest

    def make_last(self, path: Path) -> None:
        """Replace last.pt by the checkpoint `path`, which stays.

        Raises:
            UserError: the folder cannot be written.
        """
        beside = self.last.with_name(".last.pt.new")
        try:
            beside.unlink(missing_ok=True)
            link(path, beside)
            beside.replace(self.last)
            sync_folder(self.checkpoints)
        except OSError as error:
            raise UserError(f"{self.last} cannot be replaced ({error.strerror}); mend the folder") from error

    def truncate_metrics(self, step: int, validated: bool) -> None:
        """Forget the rows of metrics.jsonl after `step` steps, and a validation at `step` unless `validated`.

        The rows are in the order they were written, so one cut at the first row too many does it; a row that a kill
        left half written is one too many.
        """
        if not self.metrics.exists():
            return
        keep = 0
        with self.metrics.open("rb") as file:
            for line in file:
                row = parse_row(line)
                if row is None or row["step"] > step or (row["step"] == step and "val_loss" in row and not validated):
                    break
                keep += len(line)
        if keep < self.metrics.stat().st_size:
            os.truncate(self.metrics, keep)
            sync_folder(self.path)


def link(source: Path, target: Path) -> None:
    """A second name for a file; a copy where the file system has no hard links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def parse_row(line: bytes) -> dict | None:
    """One line of a .jsonl file, or None when it was not written to its end."""
    if not line.endswith(b"\n"):
        return None
    try:
        return json.loads(line)
    except ValueError:
        return None


def read_rows(path: Path) -> list[dict]:
    """All whole rows of a .jsonl file; none when it is not there."""
    if not path.exists():
        return []
    with path.open("rb") as file:
        return [row for row in map(parse_row, file) if row is not None]
