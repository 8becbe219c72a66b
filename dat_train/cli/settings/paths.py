"""Expansion of `~` in all settings that are paths."""

from typing import Any

from dat_train.cli.settings.setting import settings
from dat_train.home_folder import expand_home
from dat_train.settings import flat, merged, nested

TIMM_FOLDER = "local-dir:"  # timm's prefix of a folder


def expand_paths(values: dict[str, Any], schema: type) -> dict[str, Any]:
    """Return the settings with `~` and `~user` at the beginning of paths replaced by the home folder."""
    items = flat(values)
    paths = {item.key: items[item.key] for item in settings(schema) if item.path and items.get(item.key)}
    return merged(values, nested({key: expand_value(path) for key, path in paths.items()}))


def expand_value(path: str | list[str]) -> str | list[str]:
    """Expand `~` in a path, after timm's local-dir: too, or in each of a list; other paths stay as typed."""
    if isinstance(path, list):
        return [expand_value(one) for one in path]
    prefix = TIMM_FOLDER if path.startswith(TIMM_FOLDER) else ""
    rest = path.removeprefix(prefix)
    return prefix + str(expand_home(rest)) if rest.startswith("~") else path
