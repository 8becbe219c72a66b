"""Declaration of a setting in a schema, and all settings of a schema by dotted key."""

import dataclasses
import typing
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from dat_train.cli.settings.limits import DEVICE, KERNELS, SHARE, Limit

MISSING = "???"  # OmegaConf's mark of a value that must be given


def setting(
    meaning: str, limit: Limit | None = None, *, may_change: bool = False, path: bool = False, default: Any = MISSING
) -> Any:
    """Dataclass field of a setting.

    Args:
        meaning: text of --help.
        limit: condition on the value beyond its type.
        may_change: may differ when a run is continued.
        path: a path or a list of paths, in which `~` is expanded.
        default: default value; without one, conf/ must have it.
    """
    metadata = {"help": meaning, "limit": limit, "may_change": may_change, "path": path}
    if isinstance(default, dict | list):
        return field(default_factory=lambda: type(default)(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def device_setting(**options: Any) -> Any:
    """The setting `device` of every command that has one."""
    return setting("auto: the GPU if there is one; cpu, cuda or mps", DEVICE, **options)


def kernels_setting(**options: Any) -> Any:
    """The setting `kernels` of every command that has one."""
    return setting(
        "auto: fastest measured kernels of the device; plain: none; triton, flex: on CUDA, not measured",
        KERNELS,
        **options,
    )


def score_setting() -> Any:
    """The setting `score` of every command that draws detections."""
    return setting("detection: lowest score of the objects in pictures; detectors drop scores up to 0.05", SHARE)


@dataclass(frozen=True)
class Setting:
    """One setting of a schema."""

    key: str
    type: Any
    help: str
    limit: Limit | None
    may_change: bool
    path: bool
    default: Any  # MISSING if conf/ has the default


def settings(schema: type, prefix: str = "") -> Iterator[Setting]:
    """All settings of a schema, depth first; its own settings come before the inherited ones."""
    hints = typing.get_type_hints(schema)
    own = vars(schema).get("__annotations__", {})
    for item in sorted(dataclasses.fields(schema), key=lambda item: item.name not in own):
        kind, key = hints[item.name], prefix + item.name
        if dataclasses.is_dataclass(kind):
            yield from settings(kind, f"{key}.")
        else:
            yield Setting(key, kind, default=item.default, **item.metadata)
