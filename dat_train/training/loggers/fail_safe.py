"""No logger can end a run."""

from collections.abc import Callable
from pathlib import Path

from dat_train.training.loggers.logger import Logger


class Careful:
    """A logger that says once when it fails, and is left alone from then on.

    Args:
        title: for the line.
        make: opens the logger.
        warn: called with the line.
    """

    def __init__(self, title: str, make: Callable[[], Logger], warn: Callable[[str], None]) -> None:
        self.title = title
        self.warn = warn
        self.failed = False
        self._logger = self._try(make)

    def log_step(self, row: dict) -> None:
        self._try(lambda: self._logger.log_step(row))

    def log_validation(self, row: dict) -> None:
        self._try(lambda: self._logger.log_validation(row))

    def log_picture(self, name: str, path: Path, step: int) -> None:
        self._try(lambda: self._logger.log_picture(name, path, step))

    def sync(self) -> None:
        self._try(lambda: self._logger.sync())

    def close(self) -> None:
        self._try(lambda: self._logger.close())

    def _try(self, action: Callable[[], Logger | None]) -> Logger | None:
        if self.failed:
            return None
        try:
            return action()
        except Exception as error:  # whatever it is, training matters more
            self.failed = True
            reason = (str(error).splitlines() or [""])[0]
            self.warn(f"{self.title} failed ({type(error).__name__}: {reason}); the run goes on without it")
            return None
