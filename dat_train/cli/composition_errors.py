"""One-line errors in arguments and composed settings: setting, fault, suggestion."""

import difflib
import re
import types
import typing

from hydra.errors import HydraException, MissingConfigException
from omegaconf.errors import OmegaConfBaseException

from dat_train.cli.command_table import Command
from dat_train.cli.conf import UNSET, choices
from dat_train.cli.settings.setting import settings
from dat_train.settings import OLD_NAMES

_TYPE_NAMES = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "a text",
    list: "a list of numbers",
    dict: "settings in braces, as in {key:value}",
}


def composition_error(command: Command, error: Exception) -> str:
    """Error of Hydra, OmegaConf or the YAML parser in one line."""
    if isinstance(error, MissingConfigException) and error.options:
        group, _, value = error.missing_cfg_file.rpartition("/")
        if value.startswith("submitit_"):
            return "hydra/launcher=slurm needs its launcher: pip install 'dat-train[slurm]'"
        options = [name for name in error.options if f"{group}={name}" not in command.left_out]
        return no_such_choice(group, value, options)
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
    """One-line message for OmegaConf's error `text` about the setting `key`."""
    key = re.sub(r"\[\d+\]$", "", key)
    kinds = {item.key: item.type for item in settings(command.schema)}
    if key in kinds:
        value = re.search(r"[Vv]alue '(.*?)'", text)
        return f"{key}{f'={value[1]}' if value else ''}: expected {_type_name(kinds[key])}"
    if "is not a subclass" in text:
        inside = next(name for name in kinds if name.startswith(f"{key}."))
        return f"{key} is a group of settings: set one of them, as in {inside}=..."
    if re.match(r"Key '.*' (not in|is not in struct)", text):
        return no_such_setting(command, key)
    return text.partition("\n    full_key")[0]


def no_such_setting(command: Command, key: str) -> str:
    if key in OLD_NAMES:
        return f"{key} is now called {OLD_NAMES[key]}"
    return f"{key} is not a setting{nearest(command, key)} (dat-{command.name} --help lists all)"


def no_such_choice(group: str, value: str, options: list[str]) -> str:
    if group == "experiment" and value in choices("model"):
        return f"experiment={value} is now model={value} data=imagenet, with the same recipe"
    names = [name for name in options if name != UNSET]
    ranked = difflib.get_close_matches(value, names, n=len(names), cutoff=0)
    return f"{group}={value} does not exist; {group} is one of {', '.join(ranked)}"


def nearest(command: Command, key: str) -> str:
    """The text "; did you mean ...?" with the most similar setting, by its whole key or its last part; else ""."""
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
