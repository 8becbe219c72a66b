"""Context of a run: folder, processes, terminal and stop request."""

from dataclasses import dataclass

from dat_train.runtime.processes import Processes
from dat_train.runtime.stop_request import StopRequest
from dat_train.runtime.terminal import Terminal
from dat_train.training.run_folder import RunFolder


@dataclass(frozen=True)
class RunContext:
    """Objects that are used by all parts of a run.

    Args:
        folder: files of the run.
        processes: this process and its group.
        terminal: lines and progress for the user.
        stop: request to stop the run.
    """

    folder: RunFolder
    processes: Processes
    terminal: Terminal
    stop: StopRequest
