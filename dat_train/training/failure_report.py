"""How a process of the run ends when it fails: with one line that says which rank and why."""

import os
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

from torch.distributed.elastic.multiprocessing.errors import get_error_handler

from dat_train.errors import UserError
from dat_train.runtime.processes import Processes, ProcessLost
from dat_train.runtime.terminal import Terminal

HOSTING = 3.0  # seconds; where not torchrun keeps the store, rank 0 does, and the others still ask who speaks


@contextmanager
def last_words(processes: Processes, terminal: Terminal, folder: Path) -> Iterator[None]:
    """Say why this process fails, in the rank's log file too; what several find is said once, by the lowest rank.

    An error below `folder` that the operating system reports is the user's to mend, like a `UserError`: a full disk, a
    read-only or vanished folder. One process alone leaves the screen to who catches the error.

    Raises:
        SystemExit: with several processes; 2 after what a user can mend, 1 after anything else.
    """
    try:
        yield
    except UserError as error:
        _speak(error, str(error), processes, terminal)
        raise
    except OSError as error:
        if not _concerns(error, folder):
            _confess(error, processes, terminal)
            raise
        mendable = UserError(
            f"{error.filename}: {error.strerror}; make room or mend the folder, and start the same command again"
        )
        _speak(mendable, str(mendable), processes, terminal)
        raise mendable from error
    except Exception as error:
        _confess(error, processes, terminal)
        raise


def _concerns(error: OSError, folder: Path) -> bool:
    return isinstance(error.filename, str) and Path(error.filename).absolute().is_relative_to(folder.absolute())


def _confess(error: Exception, processes: Processes, terminal: Terminal) -> None:
    """An error nobody expected: its traceback goes to the log file."""
    terminal.record(traceback.format_exc())
    where = f"; the traceback is in {terminal.log_path}" if terminal.log_path else ""
    _speak(error, f"{type(error).__name__}: {error}{where}", processes, terminal, code=1)


def _speak(error: Exception, text: str, processes: Processes, terminal: Terminal, code: int = 2) -> None:
    """Say `text` and exit, of several processes; note it, of one."""
    line = " ".join(text.split())
    terminal.record(f"error: {line}")
    if processes.world_size == 1:
        return
    get_error_handler().record_exception(error)  # torchrun prints it in its own summary
    topic = "lost" if isinstance(error, ProcessLost) else sha256(line.encode()).hexdigest()
    if processes.speaks_first(topic):
        terminal.close()
        speaker = "" if processes.is_main else f" on rank {processes.rank} ({os.uname().nodename})"
        print(f"error{speaker}: {line}", file=sys.stderr, flush=True)
    if processes.is_main and "TORCHELASTIC_USE_AGENT_STORE" not in os.environ:
        time.sleep(HOSTING)
    sys.exit(code)
