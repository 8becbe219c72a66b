"""Being asked to stop: a scheduler's warning, or Ctrl-C."""

import os
import signal
import sys
import threading
import time
from typing import NoReturn

PREEMPTED = 75  # exit code after a requested stop: EX_TEMPFAIL, "try again later"; schedulers can requeue on it
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
SAME = 1.0  # seconds; a signal that reaches a process twice, from the terminal and through torchrun, counts once


class StopRequest:
    """Remembers that one of `SIGNALS` came, so that the loop can stop after the step it is in.

    A second one exits at once, also while the main thread waits inside a collective for a process that hangs: there
    Python's handlers do not run, but a thread reads the signals' numbers from a pipe. As a context manager it puts the
    former handlers back.

    Attributes:
        at_once: while True, the first one exits at once too; set as long as there is nothing to save yet, for to read a
            large data set may take longer than a scheduler waits.
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
        self._former = {number: signal.signal(number, self._handle) for number in SIGNALS}
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
        """In the main thread, perhaps long after the signal came."""
        if os.getpid() != self._process:
            return  # a data worker inherits the handler; it ends when the loop does
        if self.at_once:
            self._exit()
        self.name = self.name or signal.Signals(number).name

    def _watch(self, reader: int) -> None:
        """In the thread, as soon as the signal comes; ends with the pipe."""
        first = None  # when this thread, which may be late itself, saw the first one
        with os.fdopen(reader, "rb", buffering=0) as numbers:
            while number := numbers.read(1):
                if number[0] not in SIGNALS:
                    continue
                if first is not None and time.monotonic() - first > SAME:
                    self._exit()
                first = first or time.monotonic()
                self._handle(number[0], None)

    def _exit(self) -> NoReturn:
        if sys.stdout.isatty():
            sys.stdout.write("\x1b[?25h\n")  # the progress bar hides the cursor
            sys.stdout.flush()
        os._exit(PREEMPTED)


# What is for a child is not for its parent, whose pipe it inherits
os.register_at_fork(after_in_child=lambda: signal.set_wakeup_fd(-1))
