"""Expansion of `~` at the beginning of paths."""

import os
from pathlib import Path


def expand_home(path: str | Path) -> Path:
    """`path` with `~` or `~user` at its beginning replaced by the home folder; an unknown user changes nothing."""
    return Path(os.path.expanduser(path))  # noqa: PTH111  Path.expanduser raises an error for an unknown user
