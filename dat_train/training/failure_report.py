"""Report of a failed process of a run: one line with the reason and the rank."""

import os
import platform
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

from torch.distributed.elastic.multiprocessing.errors import get_error_handler

from dat_train.errors import UserError
from dat_train.runtime.batch_feed import Stopped
from dat_train.runtime.processes import Processes, ProcessLost
from dat_train.runtime.stop_request import PREEMPTED
from dat_train.runtime.terminal import Terminal

STORE_SECONDS = 3.0  # time that rank 0 keeps the store alive for other ranks, if torchrun does not host it


@contextmanager
def report_failure(processes: Processes, terminal: Terminal, folder: Path) -> Iterator[None]:
    """Print and log the reason of a failure. Equal errors of several ranks are printed once.

    An OSError about `folder` (full disk, read-only or missing folder) becomes a `UserError`. With a single process, the
    caller prints the error.

    Raises:
        SystemExit: with several processes; 2 after an error the user can fix, PREEMPTED after a stop request that ended
            the wait for a batch, 1 after any other.
    """
    try:
        yield
    except UserError as error:
        _report(error, str(error), processes, terminal, code=PREEMPTED if isinstance(error, Stopped) else 2)
        raise
    except OSError as error:
        path = Path(error.filename).absolute() if isinstance(error.filename, str) else None
        if path is None or not path.is_relative_to(folder.absolute()):
            log_traceback(error, processes, terminal)
            raise
        fixable = UserError(
            f"{error.filename}: {error.strerror}; free disk space or make the folder writable, and start the same "
            "command again"
        )
        _report(fixable, str(fixable), processes, terminal)
        raise fixable from error
    except Exception as error:
        log_traceback(error, processes, terminal)
        raise


def log_traceback(error: Exception, processes: Processes, terminal: Terminal) -> None:
    """Write the traceback of an unexpected error to the log file, and report the error."""
    terminal.record(traceback.format_exc())
    place = f"; the traceback is in {terminal.log_path}" if terminal.log_path else ""
    _report(error, f"{type(error).__name__}: {error}{place}", processes, terminal, code=1)


def _report(error: Exception, text: str, processes: Processes, terminal: Terminal, *, code: int = 2) -> None:
    """Write `text` to the log file; with several processes, print it and exit."""
    line = " ".join(text.split())
    terminal.record(f"error: {line}")
    if processes.world_size == 1:
        return
    get_error_handler().record_exception(error)  # torchrun prints it in its own summary
    topic = "lost" if isinstance(error, ProcessLost) else sha256(line.encode("utf-8", "backslashreplace")).hexdigest()
    if processes.is_first_to_report(topic):
        terminal.close()
        rank = "" if processes.is_main else f" on rank {processes.rank} ({platform.node()})"
        print(f"error{rank}: {line}", file=sys.stderr, flush=True)
    if processes.is_main and "TORCHELASTIC_USE_AGENT_STORE" not in os.environ:
        time.sleep(STORE_SECONDS)
    sys.exit(code)
