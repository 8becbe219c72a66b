"""Help texts, made from conf/ and the schemas, without importing Hydra or torch."""

import dataclasses
import re
import textwrap
from typing import Any

import yaml

from dat_train.cli.command_table import Command
from dat_train.cli.conf import conf_dir, first_comment
from dat_train.cli.derived_values import IN_WORDS
from dat_train.cli.settings.setting import MISSING, settings
from dat_train.cli.settings.train import TrainConfig
from dat_train.settings import flat

_WIDTH = 110


def usage(command: Command) -> str:
    """Short usage text of a command."""
    return f"{command.usage}\n\ndat-{command.name} --help lists models, data and all settings."


def full(command: Command) -> str:
    """Help text of a command: examples, choices, and settings with their defaults."""
    parts = [command.usage, command.notes]
    for group in command.groups:
        rows = [
            (f"{group}={name}", first_comment(conf_dir() / group / f"{name}.yaml")) for name in command.choices(group)
        ]
        parts.append("\n".join(_row(left, right) for left, right in rows))
    return "\n\n".join([*parts, _settings(command)])


def _settings(command: Command) -> str:
    defaults = flat(yaml.safe_load((conf_dir() / f"{command.name}.yaml").read_text(encoding="utf-8")))
    lines = ["Settings (default):"]
    group = ""
    for item in settings(command.schema):
        prefix = item.key.rpartition(".")[0]
        if item.key.endswith(".name") and prefix in (*command.groups, "model", "data", "augment"):
            continue  # follows from the choice
        if prefix != group:
            lines.append("")
            group = prefix
        text = item.help
        if item.limit and "one of" in item.limit.text:
            text += f"; {item.limit.text.removeprefix('must be ')}"
        default = _shown(defaults.get(item.key, item.default))
        star = " *" if item.may_change and command.schema is TrainConfig else ""
        lines.append(_row(item.key + star, text + (f" ({default})" if default else "")))
    return "\n".join(lines)


def _shown(value: Any) -> str:
    """A default as a user would type it; "" if there is none or if it depends on the chosen groups."""
    if value in (None, MISSING, dataclasses.MISSING):
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    text = str(value)
    for resolver, words in IN_WORDS.items():
        text = re.sub(resolver, words, text)
    return re.sub(r"\$\{(.*?)\}", r"\1", text)


def _row(left: str, right: str) -> str:
    lines = textwrap.wrap(right, _WIDTH - 30) or [""]
    if len(left) > 26:
        return f"  {left}\n" + "\n".join(" " * 30 + line for line in lines)
    return "\n".join(f"  {left if i == 0 else '':<26}  {line}" for i, line in enumerate(lines))
