"""Errors in what was typed, in one line: which setting, what is wrong with it, what was probably meant."""

from pathlib import Path
from typing import NoReturn

from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from dat_train.cli.composition_errors import nearest, no_such_choice, no_such_setting
from dat_train.cli.conf import choices
from dat_train.cli.settings import settings
from dat_train.cli.table import Command
from dat_train.errors import UserError

_OPEN = ("model.args.", "hydra.", "hydra/")  # below these, anything may be set


def read_arguments(command: Command, arguments: list[str]) -> tuple[list[str], dict[str, Override], list[str]]:
    """Check what was typed.

    Returns:
        The arguments in the order and form Hydra wants, the parsed settings and choices by key, and what stands there
        without a name, for the command's positional setting.

    Raises:
        UserError: malformed, an unknown option or an unknown setting.
    """
    parser = get_args_parser()
    parser.error = _fail  # instead of two lines of usage
    parsed, rest = parser.parse_known_args(arguments)
    for option in rest:
        if option.startswith("-"):
            name = option.lstrip("-").partition("=")[0].replace("-", "_")
            raise UserError(f"{option} is no option; settings are written without dashes{nearest(command, name)}")
    typed = [*parsed.overrides, *rest]  # settings may stand on both sides of an option
    options = [argument for argument in arguments if argument not in typed]
    unnamed = [argument for argument in typed if _is_unnamed(command, argument)]
    typed = [argument for argument in typed if argument not in unnamed]
    overrides: dict[str, Override] = {}
    for position, argument in enumerate(typed):
        override = _parse(command, argument)
        _check_key(command, override)
        overrides[override.key_or_group] = override
        # model.args takes any key; Hydra wants to be told that it is new
        if override.key_or_group.startswith("model.args.") and not argument.startswith(("+", "~")):
            typed[position] = f"++{argument}"
    return typed + options, overrides, unnamed


def _fail(message: str) -> NoReturn:
    raise UserError(message)


def _is_unnamed(command: Command, argument: str) -> bool:
    """Whether this is for the positional setting: no NAME=VALUE, or a file whose path has a "=" in it."""
    if command.positional is None or argument.startswith("~"):
        return False
    name, equals, _ = argument.partition("=")
    return not equals or ("/" in name and not name.startswith(_OPEN)) or Path(argument).exists()


def _parse(command: Command, argument: str) -> Override:
    name, equals, value = argument.partition("=")
    if not argument.startswith("~") and not (equals and name):
        near = nearest(command, argument)
        raise UserError(f"{argument!r} is no setting: write NAME=VALUE{near}")
    try:
        return OverridesParser.create().parse_override(argument)
    except HydraException:
        raise UserError(
            f"{argument!r} cannot be read; quote a value with special characters: '{name}=\"{value}\"'"
        ) from None


def _check_key(command: Command, override: Override) -> None:
    key = override.key_or_group
    if key.split("@")[0] in command.groups:
        value = override.value()
        may_be_more = key in ("experiment", "ablation")  # null, or a list
        single = not override.is_sweep_override() and not may_be_more
        if single and not isinstance(value, str):
            raise UserError(no_such_choice(key, str(value), choices(key)))
        return
    if key.startswith(_OPEN):
        return
    known = {item.key for item in settings(command.schema)}
    if key not in known and not any(name.startswith(f"{key}.") for name in known):
        raise UserError(no_such_setting(command, key))
    if override.is_delete():
        raise UserError(f"~{key}: a setting cannot be taken away, only set; null or 0 often is off")
