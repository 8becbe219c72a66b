#!/usr/bin/env python3
"""Writes docs/commands.md from what the commands say of themselves.

python scripts/command_reference.py            write it
python scripts/command_reference.py --check    exit with 1 when it is not what would be written
"""

import importlib
import sys
import tomllib
from pathlib import Path

from dat_train.commands.help import full

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "commands.md"


def reference() -> str:
    """The page: the help of every command in pyproject.toml."""
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    parts = ["# Commands\n\nWhat each command says with `--help`; written by `python scripts/command_reference.py`.\n"]
    for name, entry in scripts.items():
        command = importlib.import_module(entry.partition(":")[0]).COMMAND
        parts.append(f"## {name}\n\n```\n{full(command)}\n```\n")
    return "\n".join(parts)


def main() -> None:
    page = reference()
    if "--check" not in sys.argv[1:]:
        PAGE.write_text(page)
    elif not PAGE.exists() or PAGE.read_text() != page:
        sys.exit("docs/commands.md is not what the commands say: python scripts/command_reference.py")


if __name__ == "__main__":
    main()
