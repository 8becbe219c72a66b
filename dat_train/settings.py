"""Settings of a command as plain values with attribute access, and nested settings by dotted key."""

from typing import Any

import yaml


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

    def changed(self, **values: Any) -> "Settings":
        """A copy with other values of top-level settings."""
        return Settings(self.plain() | values)

    def plain(self) -> dict[str, Any]:
        """Nested ordinary dicts and lists."""
        return {key: value.plain() if isinstance(value, Settings) else value for key, value in self.items()}

    def as_yaml(self) -> str:
        """YAML text in the order of the schema."""
        return yaml.safe_dump(self.plain(), sort_keys=False, allow_unicode=True)


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
    """Nested settings of both; where both have a value, that of `above`."""
    result = dict(below)
    for name, value in above.items():
        deeper = isinstance(value, dict) and isinstance(below.get(name), dict)
        result[name] = merged(below[name], value) if deeper else value
    return result
