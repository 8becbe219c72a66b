"""Arguments of a command as Hydra reads them, with errors in one line.

Values of text settings are taken literally: name=2024_11_05, data.root=/photos (new)/it's.
"""

from pathlib import Path
from typing import NoReturn

from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString
from hydra.errors import HydraException

from dat_train.cli.command_table import Command
from dat_train.cli.composition_errors import nearest, no_such_choice, no_such_setting
from dat_train.cli.settings.setting import settings
from dat_train.errors import UserError

_ARGUMENTS = ("model.args.", "optim.args.")  # any key, for Python functions
_OPEN = (*_ARGUMENTS, "hydra.", "hydra/")  # prefixes below which any key is allowed


def read_arguments(command: Command, arguments: list[str]) -> tuple[list[str], dict[str, Override], list[str]]:
    """Check the arguments.

    Returns:
        The arguments in the order and form that Hydra expects, the parsed settings and choices by key, and the
        arguments without a name, for the command's positional setting.

    Raises:
        UserError: a malformed argument, an unknown option or an unknown setting.
    """
    parser = get_args_parser()
    parser.error = _fail  # instead of two lines of usage
    parsed, rest = parser.parse_known_args(arguments)
    for option in rest:
        if option.startswith("-"):
            name = option.lstrip("-").partition("=")[0].replace("-", "_")
            raise UserError(f"{option} is not an option; settings are written without dashes{nearest(command, name)}")
    typed = [*parsed.overrides, *rest]  # settings may stand on both sides of an option
    options = [argument for argument in arguments if argument not in typed]
    unnamed = [argument for argument in typed if _is_unnamed(command, argument)]
    typed = [argument for argument in typed if argument not in unnamed]
    overrides: dict[str, Override] = {}
    for position, argument in enumerate(typed):
        argument = _as_text(command, argument, bool(parsed.multirun))
        override = _parse(command, argument)
        _check_key(command, override)
        overrides[override.key_or_group] = override
        open_key = f"{override.key_or_group}.".startswith(_ARGUMENTS)  # Hydra's sign for a new key is ++
        typed[position] = f"++{argument}" if open_key and not argument.startswith(("+", "~")) else argument
    return typed + options, overrides, unnamed


def _as_text(command: Command, argument: str, sweep: bool) -> str:
    """The argument with its value quoted for Hydra, if the setting is a text.

    Hydra itself parses ${...}, null, a value in quotes, and several values of a sweep.
    """
    name, equals, value = argument.partition("=")
    kinds = {item.key: item.type for item in settings(command.schema)}
    if not equals or kinds.get(name.lstrip("+")) not in (str, str | None):
        return argument
    in_quotes = len(value) > 1 and value[0] in "'\"" and value[-1] == value[0]
    if "${" in value or value == "null" or in_quotes or (sweep and _is_sweep(argument)):
        return argument
    return f"{name}={QuotedString(value, Quote.single).with_quotes()}"


def _is_sweep(argument: str) -> bool:
    try:
        return OverridesParser.create().parse_override(argument).is_sweep_override()
    except HydraException:
        return False


def _fail(message: str) -> NoReturn:
    raise UserError(message)


def _is_unnamed(command: Command, argument: str) -> bool:
    """Returns True for a value of the positional setting: not NAME=VALUE, or a path that contains "="."""
    if command.positional is None:
        return False
    if argument.startswith("~"):
        return argument == "~" or "/" in argument  # a path in the home folder; ~NAME is Hydra's deletion
    name, equals, _ = argument.partition("=")
    return not equals or ("/" in name and not name.startswith(_OPEN)) or Path(argument).exists()


def _parse(command: Command, argument: str) -> Override:
    name, equals, value = argument.partition("=")
    if not argument.startswith("~") and not (equals and name):
        near = nearest(command, argument) or "; a value with spaces needs quotes, as in 'data.root=/my photos'"
        raise UserError(f"{argument!r} is not a setting: write NAME=VALUE{near}")
    try:
        return OverridesParser.create().parse_override(argument)
    except HydraException:
        if name in command.groups:
            raise UserError(no_such_choice(name, value, command.choices(name))) from None
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
            raise UserError(no_such_choice(key, str(value), command.choices(key)))
        if hint := command.left_out.get(f"{key}={value}"):
            raise UserError(
                f"dat-{command.name} has no {key}={value}: {hint} ({key} is one of {', '.join(command.choices(key))})"
            )
        return
    if key.startswith(_OPEN):
        return
    known = {item.key for item in settings(command.schema)}
    if key not in known and not any(name.startswith(f"{key}.") for name in known):
        raise UserError(no_such_setting(command, key))
    if override.is_delete():
        raise UserError(f"~{key}: a setting cannot be deleted; set it to null or 0 to turn it off")
