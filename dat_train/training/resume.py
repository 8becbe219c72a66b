"""Start of a run: from its beginning, or from a checkpoint of an earlier process with the same settings."""

import os
import platform
from collections.abc import Set
from pathlib import Path
from typing import Any

from dat_train.errors import UserError
from dat_train.models.legacy_names import current_arguments
from dat_train.models.weights.checkpoint import Checkpoint
from dat_train.runtime.processes import Processes
from dat_train.settings import flat
from dat_train.training.run_context import RunContext
from dat_train.training.run_folder import RunFolder
from dat_train.training.state import TrainState, saved_counters


def resume_mode(resume: str, folder: RunFolder) -> str:
    """Return `resume`, or "auto" if the run's own process was restarted by torchrun or SLURM.

    Both start a process again with the same arguments after a failure or requeue. The files are then those of this
    run, and it continues, instead of starting again (resume=never) or rewinding again (resume=PATH in the folder).
    """
    restarted = any(int(os.environ.get(name, 0)) for name in ("TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT"))
    return "auto" if restarted and (resume == "never" or _rewinds(Path(resume), folder)) else resume


def open_run(context: RunContext, resume: str) -> dict | None:
    """Lock the run's folder and read the checkpoint to continue from. Returns None if there is none.

    Args:
        resume: "auto" continues from the newest valid checkpoint in the folder, if there is one. "never" renames the
            folder of an earlier run. A path is the checkpoint to continue from: one in the run's own folder rewinds the
            run; another one is used only if the run's own folder has no checkpoint.

    Raises:
        UserError: another process uses the folder, the path is not a checkpoint, or the folder's checkpoints are all
            damaged.
    """
    folder, say = context.folder, context.terminal.say

    def choose() -> Path | None:
        if resume == "never" and folder.path.exists():
            folder.lock()  # fails while another process trains there
            old = folder.move_aside()
            folder.unlock()
            say(f"the earlier run was moved to {old}")
        folder.create()
        folder.lock()
        if resume in ("auto", "never"):
            return folder.newest_checkpoint(say)
        source = Path(resume)
        if not source.is_file():
            last = RunFolder(source).last
            such = f", as in {last}" if last.is_file() else ""
            raise UserError(f"resume={resume} is not a file; use the path of a checkpoint{such}, auto or never")
        return source if _rewinds(source, folder) else folder.newest_checkpoint(say) or source

    path = context.processes.on_main(choose)
    return _read(path, context.processes) if path else None


def restore(state: TrainState, saved: dict | None, context: RunContext, resume: str) -> None:
    """Restore `state` from the content of a checkpoint (None: no change), and truncate the metrics to its step.

    The checkpoint of resume=PATH becomes the run's last.pt, if the run continues from it. If the run is then killed
    before its next checkpoint, resume=auto continues from the same step. Otherwise it would continue from the former
    last.pt, whose metrics are removed here, or from the beginning.

    Args:
        resume: as in `open_run`. best.pt becomes the checkpoint of the best validation in `saved`, if it is next to
            the file; a best.pt of steps that are abandoned is renamed to best-abandoned.pt.

    Raises:
        UserError: the checkpoint does not fit the run, or the folder cannot be written.
    """
    folder, source = context.folder, Path(resume)
    if saved is not None:
        state.load_state_dict(saved)

    def adapt_folder() -> bool:
        empty = not (folder.last.exists() or folder.best.exists() or folder.history())
        if resume in ("auto", "never") or not (empty or _rewinds(source, folder)):
            return True
        folder.make_last(source.resolve())
        return folder.make_best(source.resolve(), state.best.get("step"))

    if not context.processes.on_main(adapt_folder):  # no file has the best weights: the next validation decides
        state.best, state.validated = {}, 0
    context.processes.on_main(lambda: folder.truncate_metrics(state.step, state.validated == state.step))


def newest_good_checkpoint(context: RunContext) -> Path | None:
    """Newest checkpoint that was written while loss and gradients were finite; None if there is none."""

    def choose() -> Path | None:
        return context.folder.newest_checkpoint(
            context.terminal.warn, lambda saved: saved_counters(saved)["consecutive_failures"] == 0
        )

    return context.processes.on_main(choose)


def restore_from(path: Path, state: TrainState, context: RunContext) -> None:
    """Restore `state` from a checkpoint of the run, and make it the run's last.pt.

    Raises:
        UserError: the checkpoint cannot be read, or the folder cannot be written.
    """
    restore(state, _read(path, context.processes), context, str(path))


def differences(old: dict, new: dict, may_change: Set[str]) -> list[tuple[str, Any, Any]]:
    """List the settings that differ and affect the run's numbers, as (key, old value, new value).

    Args:
        may_change: keys of settings that may change. `epochs` may only grow.
    """
    before, after = flat(_with_current_names(old)), flat(_with_current_names(new))
    changed = []
    for key in sorted(before.keys() | after.keys()):
        if key not in before and not key.startswith(("model.args.", "optim.args.")):
            continue  # the run is older than the setting and its value is not in `settings.ADDED`
        was, now = before.get(key), after.get(key)
        shorter = key == "epochs" and was is not None and now is not None and now < was
        if was != now and (key not in may_change or shorter):
            changed.append((key, was, now))
    return changed


def _with_current_names(settings: dict) -> dict:
    """Settings with the current names of the model's arguments."""
    model = settings.get("model")
    if not isinstance(model, dict) or not isinstance(model.get("args"), dict):
        return settings
    return settings | {"model": model | {"args": current_arguments(model["args"])}}


def _rewinds(source: Path, folder: RunFolder) -> bool:
    """Return True if `source` is a checkpoint of the run itself."""
    return source.resolve().parent == folder.checkpoints.resolve()


def _read(path: Path, processes: Processes) -> dict:
    """Read the checkpoint selected by the main process."""
    if not processes.is_main and not path.exists():
        raise UserError(
            f"{path} does not exist on {platform.node()}; runs_dir has to be a folder shared by all machines"
        )
    return Checkpoint.open(path).training_state()
