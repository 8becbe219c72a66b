"""Being asked to stop: a scheduler's warning, or Ctrl-C."""

import os
import signal
import sys
import time

PREEMPTED = 75  # exit code after a requested stop: EX_TEMPFAIL, "try again later"; schedulers can requeue on it
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
SAME = 1.0  # seconds; a signal that reaches a process twice, from the terminal and through torchrun, counts once


class StopRequest:
    """Remembers that one of `SIGNALS` came, so that the loop can stop after the step it is in.

    A second one exits at once. As a context manager it puts the former handlers back.

    Attributes:
        at_once: while True, the first one exits at once too; set as long as there is nothing to save yet, for to read a
            large data set may take longer than a scheduler waits.
    """

    def __init__(self) -> None:
        self.name: str | None = None  # of the signal
        self.at_once = False
        self._time = 0.0
        self._former = {}

    @property
    def requested(self) -> bool:
        return self.name is not None

    def __enter__(self) -> "StopRequest":
        self._process = os.getpid()
        self._former = {number: signal.signal(number, self._handle) for number in SIGNALS}
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)

    def _handle(self, number: int, _frame) -> None:
        if os.getpid() != self._process:
            return  # a data worker inherits the handler; it ends when the loop does
        if self.name is None and not self.at_once:
            self.name, self._time = signal.Signals(number).name, time.monotonic()
        elif self.at_once or time.monotonic() - self._time > SAME:
            if sys.stdout.isatty():
                sys.stdout.write("\x1b[?25h\n")  # the progress bar hides the cursor
                sys.stdout.flush()
            os._exit(PREEMPTED)
