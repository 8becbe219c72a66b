"""Where a run begins: at its start, or where an earlier process of it ended."""

import os
import platform
from collections.abc import Callable
from pathlib import Path

from dat_train.errors import UserError
from dat_train.models.checkpoint import Checkpoint
from dat_train.runtime.processes import Processes
from dat_train.training.run_folder import RunFolder
from dat_train.training.state import TrainState


def open_run(folder: RunFolder, resume: str, processes: Processes, say: Callable[[str], None]) -> dict | None:
    """Take possession of the run's folder and find the checkpoint to go on from; None: there is none.

    Args:
        resume: "auto" goes on from the folder's newest whole checkpoint if there is one; "never" moves an earlier
            run's folder aside; a path is the checkpoint to go on from: one in this run's folder rewinds the run to it,
            one from elsewhere is where the run begins while its own folder has none.
        say: called with lines for the terminal.

    Raises:
        UserError: another process has the folder; the path is no checkpoint; the folder has only damaged ones.
    """
    # torchrun starts its processes anew after a failure, with the same arguments: what they wrote is no earlier run
    if resume == "never" and int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)):
        resume = "auto"

    def choose() -> Path | None:
        if resume == "never" and folder.path.exists():
            folder.lock()  # not while somebody trains there
            old = folder.move_aside()
            folder.unlock()
            say(f"the earlier run was moved to {old}")
        folder.create()
        folder.lock()
        if resume in ("auto", "never"):
            return folder.newest_checkpoint(say)
        source = Path(resume)
        if not source.is_file():
            raise UserError(f"resume={resume} is no file; give a checkpoint's path, auto or never")
        rewinds = source.resolve().parent == folder.checkpoints.resolve()
        return source if rewinds else folder.newest_checkpoint(say) or source

    path = processes.on_main(choose)
    return _read(path, processes) if path else None


def restore(state: TrainState, saved: dict | None, folder: RunFolder, processes: Processes) -> None:
    """Make `state` what `saved` says (None: leave it as new), and the folder's metrics what they were then."""
    if saved is not None:
        state.load(saved)
    if processes.is_main:
        folder.truncate_metrics(state.step, state.validated == state.step)
    processes.wait()


def go_back(
    state: TrainState, folder: RunFolder, processes: Processes, warn: Callable[[str], None], to_restore: bool
) -> Path | None:
    """Find the newest checkpoint that was written while the numbers were finite; None if there is none.

    Args:
        to_restore: make `state` what it says, and it the run's last.pt: a run that is killed now must not go on from
            the former one, whose metrics are forgotten here.

    Raises:
        UserError: the folder cannot be written.
    """

    def choose() -> Path | None:
        path = folder.newest_checkpoint(warn, lambda saved: saved["counters"]["in_a_row"] == 0)
        if path and to_restore:
            folder.make_last(path)
        return path

    path = processes.on_main(choose)
    if path is not None and to_restore:
        restore(state, _read(path, processes), folder, processes)
    return path


def _read(path: Path, processes: Processes) -> dict:
    """What the main process chose, in every process."""
    if not processes.is_main and not path.exists():
        raise UserError(
            f"{path} does not exist on {platform.node()}; runs_dir has to be a folder shared by all machines"
        )
    return Checkpoint.open(path).training_state()
