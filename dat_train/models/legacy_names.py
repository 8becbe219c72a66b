"""Names of model arguments in earlier versions, still accepted by the models and in the configurations of old runs."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

from dat_train.errors import UserError

CURRENT_NAMES = {  # earlier name -> current name
    "heads": "num_heads",
    "offset_range": "offset_range_factor",
    "bias": "position_bias",
}


def current_arguments(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Model arguments under their current names.

    Args:
        arguments: arguments of DAT or of timm.create_model, under current or earlier names.

    Raises:
        UserError: an argument is given under both of its names.
    """
    for old, new in CURRENT_NAMES.items():
        if old in arguments and new in arguments:
            raise UserError(f"{old} and {new} are one argument, the former its earlier name: give {new} alone")
    return {CURRENT_NAMES.get(name, name): value for name, value in arguments.items()}


def accept_legacy_names(function: Callable) -> Callable:
    """Decorate a function so that it takes keyword arguments under their earlier names too."""

    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        return function(*args, **current_arguments(kwargs))

    return wrapper
