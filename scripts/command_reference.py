#!/usr/bin/env python3
"""Write docs/commands.md from the help texts of the commands.

python scripts/command_reference.py            write it
python scripts/command_reference.py --check    exit with 1 if it is out of date
"""

import sys
from pathlib import Path

from dat_train.cli.command_table import COMMANDS
from dat_train.cli.help import full

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "commands.md"


def reference() -> str:
    """Text of docs/commands.md: the help of every command."""
    parts = ["# Commands\n\nThe `--help` of each command; written by `python scripts/command_reference.py`.\n"]
    for command in COMMANDS.values():
        parts.append(f"## dat-{command.name}\n\n```\n{full(command)}\n```\n")
    return "\n".join(parts)


def main() -> None:
    page = reference()
    if "--check" not in sys.argv[1:]:
        PAGE.write_text(page)
    elif not PAGE.exists() or PAGE.read_text() != page:
        sys.exit("docs/commands.md is out of date: python scripts/command_reference.py")


if __name__ == "__main__":
    main()
