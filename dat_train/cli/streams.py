"""Standard streams on which printing never fails."""

import contextlib
import os
import select
import sys


def make_safe() -> None:
    """Replace closed standard streams by the null device, and characters the terminal lacks by backslash escapes.

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
