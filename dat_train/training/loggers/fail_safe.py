"""Protection of a run from failing loggers."""

from collections.abc import Callable
from pathlib import Path

from dat_train.training.loggers.logger import Logger


class FailSafeLogger:
    """A logger whose first failure is reported and which is not used afterwards.

    Args:
        title: name for the report.
        make: opens the logger.
        warn: called with the report.
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
        except Exception as error:  # of any kind: training is more important
            self.failed = True
            reason = (str(error).splitlines() or [""])[0]
            self.warn(f"{self.title} failed ({type(error).__name__}: {reason}); the run continues without it")
            return None
