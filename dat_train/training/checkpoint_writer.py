"""Writing of a run's checkpoints in a background thread, with retries after errors such as a full disk."""

import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from dat_train.errors import UserError
from dat_train.runtime.checkpoint_file import canonical, write_checkpoint
from dat_train.training.run_folder import RunFolder, link

RETRY_SECONDS = 60.0  # after a failed write
LAST_ATTEMPTS = 5  # at the end of the run, because there is no later checkpoint
LAST_PAUSE_SECONDS = 2.0  # seconds between these tries


class CheckpointWriter:
    """Writer of last.pt, best.pt and older checkpoints, in the main process only.

    `save` copies the state and returns; a thread writes the copy. The next `save` waits for the previous one. If
    best.pt could not be written, the next `save` writes it again.

    Args:
        every_minutes: interval after which `due` is True; 0 makes every step due.
        keep: number of older checkpoints to keep as last-STEP.pt.
        step_on_disk: step of the last.pt that exists when the run starts. None if there is none.
        before: called before each save to flush the files that a checkpoint relies on to the disk; may raise OSError.
        warn: called with a line if writing fails.
    """

    def __init__(
        self, folder: RunFolder, *, every_minutes: float, keep: int, step_on_disk: int | None, before, warn
    ) -> None:
        self.folder = folder
        self.every_seconds = every_minutes * 60
        self.keep = keep
        self._step_on_disk = step_on_disk
        self.before = before
        self.warn = warn
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._writing: Future | None = None
        self._unwritten_best: dict | None = None  # a best state that is not in best.pt yet
        self._failed: OSError | None = None  # of the newest state, which is in no file then
        self._next = time.monotonic() + self.every_seconds

    def due(self) -> bool:
        """True if the interval between checkpoints has passed."""
        return time.monotonic() >= self._next

    @property
    def busy(self) -> bool:
        """True while the thread is writing."""
        return self._writing is not None and not self._writing.done()

    def save(self, state: dict, best: bool = False) -> None:
        """Write `state` as last.pt, and before that as best.pt if it is the best so far."""
        begin = time.monotonic()
        self.wait()
        self._next = begin + self.every_seconds
        snapshot = canonical(state)
        if best:
            self._unwritten_best = snapshot
        try:
            self.before()
            self._writing = self._thread.submit(self._write, snapshot)
        except OSError as error:
            self._note(error)

    def finish(self, state: dict) -> None:
        """Wait until the last saved state is in its files.

        Args:
            state: that state, to try again after errors.

        Raises:
            UserError: the state could not be written.
        """
        self.wait()
        for _ in range(LAST_ATTEMPTS):
            if self._failed is None:
                break
            time.sleep(LAST_PAUSE_SECONDS)
            self.save(state)
            self.wait()
        self._thread.shutdown()
        if self._failed is not None:
            raise UserError(
                f"step {state['step']:,} could not be written to {self.folder.checkpoints} ({_reason(self._failed)}); "
                "the files there are older; free disk space or make the folder writable, and start the command again"
            )

    def wait(self) -> None:
        """Wait until no file is being written."""
        if self._writing is not None:
            writing, self._writing = self._writing, None
            self._note(writing.result())

    def _note(self, failed: OSError | None) -> None:
        """Report an error and schedule the next try."""
        self._failed = failed
        if self._failed is not None:
            self._next = min(self._next, time.monotonic() + RETRY_SECONDS)
            self.warn(
                f"a checkpoint could not be written to {self.folder.checkpoints} ({_reason(self._failed)}); "
                "the previous one is intact, the run continues and tries again"
            )

    def _write(self, snapshot: dict) -> OSError | None:
        """Write the files, in the thread. best.pt is first, because last.pt refers to it."""
        try:
            if self._unwritten_best is not None:
                write_checkpoint(self._unwritten_best, self.folder.best)
                self._unwritten_best = None
            if self.keep:
                self._keep_older(snapshot["step"])
            write_checkpoint(snapshot, self.folder.last)
            self._step_on_disk = snapshot["step"]
        except OSError as error:
            return error
        return None

    def _keep_older(self, step: int) -> None:
        """Link the last.pt that is about to be replaced to last-STEP.pt, and remove the oldest of these files."""
        last, on_disk = self.folder.last, self._step_on_disk
        if last.exists() and on_disk is not None and on_disk < step:
            name = self._name(on_disk)
            if not name.exists():
                link(last, name)
        for path in self.folder.history():
            if path >= self._name(step):  # written before the run was rewound
                path.unlink()
        for path in self.folder.history()[self.keep :]:
            path.unlink()

    def _name(self, step: int) -> Path:
        return self.folder.checkpoints / f"last-{step:09d}.pt"


def _reason(error: OSError) -> str:
    return error.strerror or str(error)
