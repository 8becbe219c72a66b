"""Checks of values that types cannot express."""

import math

from dat_train.cli.settings.setting import settings
from dat_train.cli.settings.train import TrainConfig
from dat_train.errors import UserError
from dat_train.settings import flat

REQUIRED = "required"  # value of `init` in a recipe for fine-tuning


def validate(config: dict, schema: type = TrainConfig, *, images: bool = True) -> None:
    """Check the values of resolved settings, which have the right types.

    Args:
        images: images of the data set will be read: data.root is required.

    Raises:
        UserError: the first setting with an impossible value, and the values it may take.
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
        raise UserError(f"data.std={std} must have as many numbers as data.mean={mean}: three, or one for grayscale")
    if values.get("init") == REQUIRED:
        raise UserError("init is not set: init=PATH, the weights this recipe fine-tunes (init=null: random weights)")
    rooted = values.get("data.kind") not in (None, "digits", "fake") and schema is TrainConfig
    if rooted and images and not values.get("data.root"):
        raise UserError(f"data.root is not set: data={values['data.name']} needs data.root=PATH")
