"""What a logger is."""

from pathlib import Path
from typing import NamedTuple, Protocol

NOT_LOGGED = ("step", "epoch")  # the axes


class About(NamedTuple):
    """What a run is: its resolved configuration, nested, and on what it runs (`environment`)."""

    config: dict
    environment: dict


class Logger(Protocol):
    """Somebody else who wants the rows of metrics.jsonl, in order; after resuming, some may come a second time."""

    def log_step(self, row: dict) -> None: ...
    def log_validation(self, row: dict) -> None: ...
    def log_picture(self, name: str, path: Path, step: int) -> None: ...
    def sync(self) -> None: ...
    def close(self) -> None: ...
