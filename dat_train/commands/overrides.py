"""Errors in what was typed, in one line: which setting, what is wrong with it, what was probably meant."""

import difflib
import re
import types
import typing
from pathlib import Path
from typing import NoReturn

from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, MissingConfigException
from omegaconf.errors import OmegaConfBaseException

from dat_train.commands.cli import UNSET, choices
from dat_train.commands.command import Command
from dat_train.config import settings
from dat_train.errors import UserError

_OPEN = ("model.args.", "hydra.", "hydra/")  # below these, anything may be set
_TYPE_NAMES = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "a text",
    list: "a list of numbers",
    dict: "settings in braces, as in {key:value}",
}


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
            raise UserError(f"{option} is no option; settings are written without dashes{_nearest(command, name)}")
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


def composition_error(command: Command, error: Exception) -> str:
    """What Hydra, OmegaConf or the YAML parser found wrong, in one line."""
    if isinstance(error, MissingConfigException) and error.options:
        group, _, value = error.missing_cfg_file.rpartition("/")
        if value.startswith("submitit_"):
            return "hydra/launcher=slurm needs its launcher: pip install 'dat-train[slurm]'"
        return _no_such_choice(group, value, error.options)
    text = str(error)
    if several := re.match(r"Ambiguous value for argument '(.*?)'", text):
        return f"{several[1]}: several values are a sweep; add --multirun (or write [a,b] for a list)"
    file = re.match(r"In '(.*?)': \w+ raised while composing", text)
    where = f"in {file[1]}.yaml: " if file else ""
    origin = error.__cause__ or error.__context__
    if isinstance(error, HydraException) and isinstance(origin, OmegaConfBaseException):
        error = origin
    return where + _wrong_setting(command, str(error), getattr(error, "full_key", None) or "")


def _wrong_setting(command: Command, text: str, key: str) -> str:
    """OmegaConf's complaint `text` about the setting `key`, in our words where we know better ones."""
    key = re.sub(r"\[\d+\]$", "", key)
    kinds = {item.key: item.type for item in settings(command.schema)}
    if key in kinds:
        value = re.search(r"[Vv]alue '(.*?)'", text)
        return f"{key}{f'={value[1]}' if value else ''}: expected {_type_name(kinds[key])}"
    if "is not a subclass" in text:
        inside = next(name for name in kinds if name.startswith(f"{key}."))
        return f"{key} is a group of settings: set one of them, as in {inside}=..."
    if re.match(r"Key '.*' (not in|is not in struct)", text):
        return _no_such_setting(command, key)
    return text.partition("\n    full_key")[0]


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
        near = _nearest(command, argument)
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
            raise UserError(_no_such_choice(key, str(value), choices(key)))
        return
    if key.startswith(_OPEN):
        return
    known = {item.key for item in settings(command.schema)}
    if key not in known and not any(name.startswith(f"{key}.") for name in known):
        raise UserError(_no_such_setting(command, key))
    if override.is_delete():
        raise UserError(f"~{key}: a setting cannot be taken away, only set; null or 0 often is off")


def _no_such_setting(command: Command, key: str) -> str:
    return f"{key} is not a setting{_nearest(command, key)} (dat-{command.name} --help lists all)"


def _no_such_choice(group: str, value: str, options: list[str]) -> str:
    names = [name for name in options if name != UNSET]
    ranked = difflib.get_close_matches(value, names, n=len(names), cutoff=0)
    return f"{group}={value} does not exist; {group} is one of {', '.join(ranked)}"


def _nearest(command: Command, key: str) -> str:
    """ "; did you mean ...?" where something is near, by the whole key or by its last part."""
    known = [*command.groups, *(item.key for item in settings(command.schema))]
    leaves = {name.rpartition(".")[2]: name for name in reversed(known)}
    leaf = key.rpartition(".")[2]
    near = (
        difflib.get_close_matches(key, known, n=1)
        or [leaves[name] for name in leaves if name == leaf]
        or [leaves[name] for name in difflib.get_close_matches(leaf, leaves, n=1)]
    )
    return f"; did you mean {near[0]}?" if near else ""


def _type_name(kind: object) -> str:
    """A type in words."""
    if isinstance(kind, types.UnionType):  # X | None
        inner = next(part for part in typing.get_args(kind) if part is not type(None))
        return f"{_type_name(inner)} or null"
    if kind == list[str]:
        return "a list, as in [a,b]"
    return _TYPE_NAMES[typing.get_origin(kind) or kind]
