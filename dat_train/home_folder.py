"""Expansion of `~` at the beginning of paths."""

import contextlib
from pathlib import Path


def expand_home(path: str | Path) -> Path:
    """`path` with `~` or `~user` at its beginning replaced by the home folder; an unknown user changes nothing."""
    with contextlib.suppress(RuntimeError):
        return Path(path).expanduser()
    return Path(path)
