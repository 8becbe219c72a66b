"""Interface of loggers, and a wrapper that disables a failing logger."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Protocol

AXES = ("step", "epoch")


class About(NamedTuple):
    """Description of a run: name, resolved configuration (nested), and versions and device (`environment`)."""

    name: str
    config: dict
    environment: dict


def named_values(group: str, row: dict) -> dict[str, float]:
    """Numbers of a row by the names that loggers show, as "train/loss"; a skipped step has no loss."""
    values = {name.replace("val_", ""): value for name, value in row.items() if name not in AXES}
    return {f"{group}/{name}": value for name, value in values.items() if value is not None}


class Logger(Protocol):
    """Receiver of the rows of metrics.jsonl, in order, in the groups "train" (steps) and "validation".

    After resuming, some rows may be repeated.
    """

    def log(self, group: str, row: dict) -> None: ...
    def log_picture(self, name: str, path: Path, step: int) -> None: ...
    def sync(self) -> None: ...
    def close(self) -> None: ...


class FailSafeLogger:
    """Wrapper of a logger; the first failure is reported and disables it.

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

    def log(self, group: str, row: dict) -> None:
        self._try(lambda: self._logger.log(group, row))

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
