"""Plain data and functions that a command gets from the command line in addition to its own settings."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dat_train.settings import Settings

SettingsFor = Callable[[dict[str, Any], str, bool], Settings]


@dataclass(frozen=True)
class Request:
    """Capabilities of the command line that a command needs while it runs.

    Attributes:
        settings_for: returns the settings of a training run for a checkpoint: those it was trained with, overridden by
            those on the command line. Called with the configuration in the checkpoint ({} if it has none), the
            checkpoint's path for messages, and True if images of the data set will be read (data.root is then
            required).
        may_change: dotted keys of the settings that may change when a run is continued.
    """

    settings_for: SettingsFor
    may_change: frozenset[str] = frozenset()
