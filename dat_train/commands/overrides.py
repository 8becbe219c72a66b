"""Errors in what was typed, in one line: which setting, what is wrong with it, what was probably meant."""

import difflib
import re
import typing

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from dat_train.commands.cli import choices
from dat_train.config import SCHEMAS, settings
from dat_train.errors import UserError

GROUPS = {"train": ("model", "data", "augment", "experiment"), "eval": ("model", "data")}
_OPEN = ("model.args.", "hydra.", "hydra/")  # below these, anything may be set
_FLAGS_WITH_VALUE = (
    "--cfg",
    "-c",
    "--package",
    "-p",
    "--config-path",
    "-cp",
    "--config-name",
    "-cn",
    "--config-dir",
    "-cd",
)
_TYPE_NAMES = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "a text",
    list: "a list",
    dict: "a dict",
}


def check_overrides(command: str, arguments: list[str]) -> list[str]:
    """The arguments as Hydra wants them.

    Raises:
        UserError: malformed, an unknown setting, or an unknown choice of a group.
    """
    known = {item.key for item in settings(SCHEMAS[command])}
    checked = []
    takes_value = False
    for argument in arguments:
        if takes_value or argument.startswith("-"):
            takes_value = argument in _FLAGS_WITH_VALUE
            checked.append(argument)
            continue
        override = _parse(command, argument, known)
        _check_key(command, override, known)
        # model.args takes any key; Hydra wants to be told that it is new
        is_new = override.key_or_group.startswith("model.args.") and not argument.startswith(("+", "~"))
        checked.append(f"++{argument}" if is_new else argument)
    _check_groups_given(command, checked)
    return checked


def composition_error(command: str, error: Exception) -> str:
    """What Hydra or OmegaConf found wrong, in one line."""
    while isinstance(error, HydraException) and error.__cause__ is not None:
        error = error.__cause__
    text = str(error)
    key = getattr(error, "full_key", None)
    kinds = {item.key: item.type for item in settings(SCHEMAS[command])}
    value = re.search(r"[Vv]alue '(.*?)'", text)
    if key in kinds and value:
        return f"{key}={value[1]}: expected {_type_name(kinds[key])}"
    if key in kinds:
        return f"{key}: expected {_type_name(kinds[key])}"
    if key is not None and "is not a subclass" in text:
        inside = next(name for name in kinds if name.startswith(f"{key}."))
        return f"{key} is a group of settings: set one of them, as in {inside}=..."
    return " ".join(line.strip() for line in text.splitlines() if line.strip())


def _parse(command: str, argument: str, known: set[str]) -> Override:
    if "=" not in argument and not argument.startswith("~"):
        near = _nearest(argument, [*known, *GROUPS[command]])
        raise UserError(f"{argument!r} is no setting: write NAME=VALUE{near}")
    try:
        return OverridesParser.create().parse_override(argument)
    except HydraException:
        name, _, value = argument.partition("=")
        raise UserError(
            f"{argument!r} cannot be read; quote a value with special characters: '{name}=\"{value}\"'"
        ) from None


def _check_key(command: str, override: Override, known: set[str]) -> None:
    key = override.key_or_group
    group = key.split("@")[0]
    if group in GROUPS[command]:
        options = choices(group)
        for value in _values(override):
            if value in options or value in ("null", "None", None) or "/" in str(value):
                continue
            ranked = difflib.get_close_matches(str(value), options, n=len(options), cutoff=0)
            raise UserError(f"{group}={value} does not exist; {_plural(group)}: {', '.join(ranked)}")
        return
    is_prefix = any(name.startswith(f"{key}.") for name in known)
    if key in known or is_prefix or key.startswith(_OPEN):
        return
    raise UserError(
        f"{key} is not a setting{_nearest(key, [*known, *GROUPS[command]])} (dat-{command} --help lists all)"
    )


def _check_groups_given(command: str, arguments: list[str]) -> None:
    """model and data have to be named, unless an experiment does."""
    given = {re.split(r"[=@]", argument.lstrip("+~"))[0] for argument in arguments}
    if command != "train" or "experiment" in given or any(flag in given for flag in ("--info", "-i")):
        return
    for group in ("model", "data"):
        if group not in given:
            raise UserError(f"{group} is not set: {group}=NAME with one of {', '.join(choices(group))}")


def _values(override: Override) -> list:
    """The value, or every value of a sweep."""
    if override.is_sweep_override():
        return [str(value) for value in override.sweep_string_iterator()]
    return [override.value()]


def _nearest(key: str, known: list[str]) -> str:
    """ "; did you mean ...?" where something is near, by the whole key or by its last part."""
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.6)
    if not near:
        leaf = key.rpartition(".")[2]
        near = [name for name in sorted(known) if name.rpartition(".")[2] == leaf][:1]
    if not near:
        leaves = {name.rpartition(".")[2]: name for name in sorted(known)}
        near = [leaves[leaf] for leaf in difflib.get_close_matches(key.rpartition(".")[2], leaves, n=1, cutoff=0.6)]
    return f"; did you mean {near[0]}?" if near else ""


def _type_name(kind: object) -> str:
    optional = type(None) in typing.get_args(kind)
    plain = next((arg for arg in typing.get_args(kind) if arg is not type(None)), kind) if optional else kind
    origin = typing.get_origin(plain) or plain
    return _TYPE_NAMES.get(origin, str(plain)) + (" or null" if optional else "")


def _plural(group: str) -> str:
    return {"model": "models", "data": "data", "augment": "augmentations", "experiment": "experiments"}[group]
