"""Settings of a command as plain values with attribute access, and nested settings by dotted key."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import yaml

# Former -> current names of settings. On the command line, a former name is an error that states the current one; in an
# old checkpoint, it is accepted.
OLD_NAMES = {
    "augment.mixup": "mixing.mixup",
    "augment.cutmix": "mixing.cutmix",
    "augment.switch_prob": "mixing.switch_prob",
    "augment.label_smoothing": "mixing.label_smoothing",
    "augment.repeats": "data.repeats",
    "optim.clip_grad": "clip_grad",
    "falling.kind": "schedule.name",
    "falling.warmup_steps": "schedule.warmup_steps",
    "falling.warmup_factor": "schedule.warmup_factor",
    "falling.power": "schedule.power",
    "falling.milestones": "schedule.milestones",
    "falling.gamma": "schedule.gamma",
}
# Settings that older configurations lack, with the value that keeps their behavior.
ADDED: dict[str, Any] = {
    "data.split_by": "order",
    "task": "classification",
    "steps": None,
    "eval.every_steps": None,
    "data.sampling": "uniform",
    "data.shuffle": "full",
    "loss.class_weights": None,
    "dense.class_weights": None,
    "loss.name": "cross_entropy",
    "optim.name": "adamw",
    "schedule.name": "cosine",
    "schedule.warmup_steps": None,
    "mixing.off_epoch": None,
    "ema.warmup": True,
    "data.background": [255, 255, 255],  # transparency was ignored, which is the same for opaque images
}


class Settings(dict):
    """A dict whose items are attributes too: `config.optim.lr` and `build_optimizer(model, **config.optim)`.

    Nested dicts become `Settings`. `plain()` returns ordinary dicts for files.
    """

    def __init__(self, values: dict[str, Any]) -> None:
        super().__init__({key: Settings(value) if isinstance(value, dict) else value for key, value in values.items()})

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"no setting {name!r}") from None

    def only(self, *names: str) -> dict[str, Any]:
        """Items with these names, as keyword arguments."""
        return {name: self[name] for name in names}

    def changed(self, **values: Any) -> "Settings":
        """A copy with other values of top-level settings."""
        return Settings(self.plain() | values)

    def without(self, *names: str) -> "Settings":
        """A copy without some settings."""
        return Settings({key: value for key, value in self.items() if key not in names})

    def plain(self) -> dict[str, Any]:
        """Nested ordinary dicts and lists."""
        return {key: value.plain() if isinstance(value, Settings) else value for key, value in self.items()}

    def as_yaml(self) -> str:
        """YAML text in the order of the schema."""
        return yaml.safe_dump(self.plain(), sort_keys=False, allow_unicode=True)


@dataclass(frozen=True)
class CommandLine:
    """Information from the command line that a command needs in addition to its own settings.

    Attributes:
        settings_for: returns the settings of a training run for a checkpoint: those it was trained with, overridden by
            those on the command line. Called with the configuration in the checkpoint ({} if it has none), the
            checkpoint's path for messages, and True if images of the data set will be read (data.root is then
            required).
        may_change: dotted keys of the settings that may change when a run is continued.
        computed: dotted keys of the settings that were not set, and that conf/ computes from other settings.
    """

    settings_for: Callable[[dict[str, Any], str, bool], Settings]
    may_change: frozenset[str] = frozenset()
    computed: frozenset[str] = frozenset()


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted key; empty dicts are left out."""
    items: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            items |= flat(value, f"{prefix}{name}.")
        else:
            items[prefix + name] = value
    return items


def merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Nested settings of both; if both have a value, that of `above`."""
    result = dict(below)
    for name, value in above.items():
        deeper = isinstance(value, dict) and isinstance(below.get(name), dict)
        result[name] = merged(below[name], value) if deeper else value
    return result


def nested(items: dict[str, Any]) -> dict[str, Any]:
    """Nested settings from settings by dotted key, the inverse of `flat`."""
    values: dict[str, Any] = {}
    for key, value in items.items():
        *groups, last = key.split(".")
        place = values
        for group in groups:
            place = place.setdefault(group, {})
        place[last] = value
    return values


def upgraded(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration written by any version of dat-train, with the names of this version.

    Missing settings get the value that keeps the behavior of the version that wrote the configuration.
    """
    items = flat(config)
    moved = {new: items[old] for old, new in OLD_NAMES.items() if old in items} | _schedule(items)
    added = {key: value for key, value in ADDED.items() if key not in items and items}
    return merged(_without(config, OLD_NAMES), nested(added | moved))


def _schedule(items: dict[str, Any]) -> dict[str, Any]:
    """Settings `schedule` of a configuration in which `falling` replaced them unless its kind was null."""
    if "falling.kind" not in items:
        return {}
    kind = items["falling.kind"]
    if kind is None:
        cosine = {"name": "cosine", "warmup_steps": None, "warmup_factor": None, "power": 1.0, "milestones": []}
        return {f"schedule.{key}": value for key, value in (cosine | {"gamma": 0.1}).items()}
    return {"schedule.name": {"step": "multistep"}.get(kind, kind), "schedule.min_lr": 0.0}


def _without(config: dict[str, Any], keys: Collection[str], prefix: str = "") -> dict[str, Any]:
    """Nested settings without those with the dotted `keys`."""
    return {
        name: _without(value, keys, f"{prefix}{name}.") if isinstance(value, dict) else value
        for name, value in config.items()
        if prefix + name not in keys
    }
