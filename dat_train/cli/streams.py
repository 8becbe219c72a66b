"""Standard streams on which printing never fails, and errors of a command as one line on standard error."""

import contextlib
import os
import re
import select
import sys

TORCHRUN = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")  # variables that torchrun sets together
FIXABLE = 2  # exit code after an error the user can fix


def make_safe() -> None:
    """Replace closed standard streams by the null device, and unencodable characters by backslash escapes.

    Called once at the start of a command.
    """
    with contextlib.suppress(OSError):
        while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:  # a closed stream's number, e.g. after `>&-`
            pass
        os.close(descriptor)
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "w" if number else "r", encoding="utf-8", closefd=False))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a test or a notebook may have another kind of stream
            stream.reconfigure(errors="backslashreplace")


def reader_has_left() -> bool:
    """Returns True if standard output is a pipe that its reader has closed, as `head` does."""
    try:
        poll = select.poll()
        poll.register(sys.stdout.fileno(), select.POLLOUT)
        return any(events & (select.POLLERR | select.POLLHUP) for _, events in poll.poll(0))
    except (OSError, ValueError, AttributeError):  # no descriptor, or a platform without poll
        return False


def flush_all() -> None:
    """Flush the standard streams. Output without a reader is discarded, because the interpreter would fail on it."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            with contextlib.suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def report_error(message: str) -> int:
    """Print one line, in the main process only; return the exit code FIXABLE."""
    started_by_torchrun = all(name in os.environ for name in TORCHRUN)
    if not started_by_torchrun or os.environ["RANK"] == "0":
        with contextlib.suppress(OSError):
            print(re.sub(r"\s*\n\s*", " ", message.strip()), file=sys.stderr, flush=True)
    return FIXABLE
