"""Requests to stop a run: signals of a scheduler, of a closing terminal, or Ctrl-C."""

import os
import signal
import sys
import threading
import time
from typing import NoReturn

PREEMPTED = 75  # exit code after a requested stop: EX_TEMPFAIL, "try again later"; schedulers can requeue on it
# Windows lacks some of them. A terminal that is closed sends SIGHUP.
SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGUSR1", "SIGINT", "SIGHUP") if hasattr(signal, name))
SAME_SECONDS = 1.0  # a signal that comes twice within this time, from the terminal and through torchrun, counts once


class StopRequest:
    """Context manager that records one of `SIGNALS`, so that the loop can stop after the current step.

    A second signal exits at once, also while the main thread waits inside a collective operation for another process.
    Python's handlers do not run there, so a thread reads the signal numbers from a pipe. SIGHUP stays ignored if it was
    ignored before, for example by nohup.

    Attributes:
        at_once: while True, the first signal exits at once, too. It is set as long as there is nothing to save, because
            reading a large data set may take longer than a scheduler waits.
    """

    def __init__(self) -> None:
        self.name: str | None = None  # of the signal
        self.at_once = False
        self._former = {}

    @property
    def requested(self) -> bool:
        return self.name is not None

    def __enter__(self) -> "StopRequest":
        self._process = os.getpid()
        self._former = {
            number: signal.signal(number, self._handle)
            for number in SIGNALS
            if signal.getsignal(number) is not signal.SIG_IGN or number == signal.SIGINT
        }
        reader, self._pipe = os.pipe()
        os.set_blocking(self._pipe, False)
        self._former_pipe = signal.set_wakeup_fd(self._pipe, warn_on_full_buffer=False)
        threading.Thread(target=self._watch, args=(reader,), name="signals", daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        signal.set_wakeup_fd(self._former_pipe)
        os.close(self._pipe)
        for number, handler in self._former.items():
            signal.signal(number, handler)

    def _handle(self, number: int, _frame) -> None:
        """Record the signal in the main thread, possibly long after it arrived."""
        if os.getpid() != self._process:
            return  # a data worker inherits the handler and ignores signals
        if self.at_once:
            self._exit()
        self.name = self.name or signal.Signals(number).name

    def _watch(self, reader: int) -> None:
        """Read signals from the pipe in a thread until the pipe is closed."""
        first = None  # time at which this thread, which may be delayed, read the first signal
        with os.fdopen(reader, "rb", buffering=0) as numbers:
            while number := numbers.read(1):
                if number[0] not in SIGNALS:
                    continue
                if first is not None and time.monotonic() - first > SAME_SECONDS:
                    self._exit()
                first = first or time.monotonic()
                self._handle(number[0], None)

    def _exit(self) -> NoReturn:
        if sys.stdout.isatty():
            sys.stdout.write("\x1b[?25h\n")  # the progress bar hides the cursor
            sys.stdout.flush()
        os._exit(PREEMPTED)


# Signals of a child must not be written into its parent's pipe, which it inherits
if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=lambda: signal.set_wakeup_fd(-1))
