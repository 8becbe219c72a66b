"""Interface of loggers."""

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
    """A receiver of the rows of metrics.jsonl, in order. After resuming, some rows may come a second time."""

    def log_step(self, row: dict) -> None: ...
    def log_validation(self, row: dict) -> None: ...
    def log_picture(self, name: str, path: Path, step: int) -> None: ...
    def sync(self) -> None: ...
    def close(self) -> None: ...
