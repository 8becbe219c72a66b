"""One setting of a schema, and all of them by dotted key."""

import dataclasses
import typing
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dat_train.config.limits import Limit

if TYPE_CHECKING:
    from omegaconf import DictConfig

MISSING = "???"  # what OmegaConf calls a value that must be given


def setting(meaning: str, limit: Limit | None = None, *, harmless: bool = False, default: Any = MISSING) -> Any:
    """A setting's field: what it means, which values it takes, and whether it may change when a run is continued."""
    metadata = {"help": meaning, "limit": limit, "harmless": harmless}
    if isinstance(default, dict):
        return field(default_factory=lambda: dict(default), metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Setting:
    """One setting of a schema: its dotted key, type, meaning, limit, harmless to change in a run, default."""

    key: str
    type: Any
    help: str
    limit: Limit | None
    harmless: bool
    default: Any  # MISSING where conf/ has it


def settings(schema: type, prefix: str = "") -> Iterator[Setting]:
    """All settings of a schema, depth first, in order."""
    hints = typing.get_type_hints(schema)
    for item in dataclasses.fields(schema):
        kind, key = hints[item.name], prefix + item.name
        if dataclasses.is_dataclass(kind):
            yield from settings(kind, f"{key}.")
        else:
            yield Setting(key, kind, default=item.default, **item.metadata)


def to_dict(config: "DictConfig") -> dict[str, Any]:
    """Composed settings as plain, resolved containers, for checkpoints and config.yaml."""
    from omegaconf import OmegaConf

    return OmegaConf.to_container(config, resolve=True)


def flat(config: dict, prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted key."""
    items: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, dict):
            items |= flat(value, f"{prefix}{name}.")
        else:
            items[prefix + name] = value
    return items
