"""Differences between the settings of a run folder and those of the run that continues it."""

from collections.abc import Set
from typing import Any

from dat_train.models.legacy_names import current_arguments
from dat_train.settings import flat


def differences(old: dict, new: dict, may_change: Set[str]) -> list[tuple[str, Any, Any]]:
    """List the settings that differ and affect the run's numbers, as (key, old value, new value).

    Args:
        may_change: keys of settings that may change. `epochs` may only grow; the warm-up may change with it.
    """
    before, after = flat(_with_current_names(old)), flat(_with_current_names(new))
    changed = []
    for key in sorted(before.keys() | after.keys()):
        if key not in before and not key.startswith(("model.args.", "optim.args.")):
            continue  # the run is older than the setting and its value is not in `settings.ADDED`
        was, now = before.get(key), after.get(key)
        shorter = key == "epochs" and was is not None and now is not None and now < was
        scaled = key == "schedule.warmup_epochs" and before.get("epochs") != after.get("epochs")
        if was != now and (key not in may_change or shorter) and not scaled:
            changed.append((key, was, now))
    return changed


def _with_current_names(settings: dict) -> dict:
    """Settings with the current names of the model's arguments."""
    model = settings.get("model")
    if not isinstance(model, dict) or not isinstance(model.get("args"), dict):
        return settings
    return settings | {"model": model | {"args": current_arguments(model["args"])}}
