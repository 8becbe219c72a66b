"""What a command of this project is, beside its code."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Command:
    """A command dat-NAME.

    Attributes:
        name: of the command after "dat-", and of its defaults, conf/NAME.yaml.
        schema: dataclass of its settings.
        groups: folders of conf/ it chooses from.
        usage: what to type, in a few lines; notes: what else help says before the settings.
        positional: the setting, a list, that takes what is typed without NAME=, as in dat-report runs/A runs/B.
    """

    name: str
    schema: type
    groups: tuple[str, ...]
    usage: str
    notes: str
    positional: str | None = None
