"""Which values are impossible, and which changes matter to a run that is continued."""

import math
from typing import Any

from dat_train.config.limits import TEST_SETS
from dat_train.config.setting import flat, settings
from dat_train.config.train import TrainConfig
from dat_train.errors import UserError

REQUIRED = "required"  # what a recipe says of `init` when it fine-tunes


def validate(config: dict, schema: type = TrainConfig, *, images: bool = True) -> None:
    """Check the values of resolved settings, types being right.

    Args:
        images: whether the data's images are going to be read, so that data.root must be there.

    Raises:
        UserError: the first setting that cannot be, with what it may be.
    """
    values = flat(config)
    for item in settings(schema):
        value = values.get(item.key)
        if value is None:
            continue
        if not all(math.isfinite(v) for v in (value if isinstance(value, list) else [value]) if isinstance(v, float)):
            raise UserError(f"{item.key}={value} must be finite")
        if item.limit and not item.limit.fits(value):
            raise UserError(f"{item.key}={value} {item.limit.text}")
    mean, std = values.get("data.mean"), values.get("data.std")
    if mean and std and len(mean) != len(std):
        raise UserError(f"data.std={std} must have as many numbers as data.mean={mean}: three, or one for greyscale")
    if values.get("init") == REQUIRED:
        raise UserError(
            "init is not set: init=PATH, the weights this recipe fine-tunes (init=null starts from nothing)"
        )
    rooted = values.get("data.kind") in ("imagenet", "folder", *TEST_SETS) and schema is TrainConfig
    if rooted and images and not values.get("data.root"):
        raise UserError(f"data.root is not set: data={values['data.name']} needs data.root=FOLDER")


def differences(old: dict, new: dict) -> list[tuple[str, Any, Any]]:
    """(key, old value, new value) of every setting that differs and matters; harmless ones are left out.

    Of `epochs`, only a smaller number matters: a run may be made longer.
    """
    before, after = flat(old), flat(new)
    harmless = {item.key for item in settings(TrainConfig) if item.harmless}
    changed = []
    for key in sorted(before.keys() | after.keys()):
        was, now = before.get(key), after.get(key)
        shorter = key == "epochs" and was is not None and now is not None and now < was
        if was != now and (key not in harmless or shorter):
            changed.append((key, was, now))
    return changed
