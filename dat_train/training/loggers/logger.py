"""Interface of loggers."""

from pathlib import Path
from typing import NamedTuple, Protocol

NOT_LOGGED = ("step", "epoch")  # the axes


class About(NamedTuple):
    """Description of a run: name, resolved configuration (nested), and versions and device (`environment`)."""

    name: str
    config: dict
    environment: dict


class Logger(Protocol):
    """A receiver of the rows of metrics.jsonl, in order. After resuming, some rows may come a second time."""

    def log_step(self, row: dict) -> None: ...
    def log_validation(self, row: dict) -> None: ...
    def log_picture(self, name: str, path: Path, step: int) -> None: ...
    def sync(self) -> None: ...
    def close(self) -> None: ...
