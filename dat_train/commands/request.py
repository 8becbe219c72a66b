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
        settings_for: settings of a training run to use a checkpoint with: those it was trained with, and over them what
            was typed. Called with the configuration in the checkpoint ({} if it has none), the checkpoint's path for
            messages, and whether images of the data set are going to be read (data.root is required then).
        may_change: dotted keys of the settings that may change when a run is continued.
    """

    settings_for: SettingsFor
    may_change: frozenset[str] = frozenset()
