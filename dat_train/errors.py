"""Errors that the user can fix, and parts of their messages."""

import difflib
import os
import unicodedata
from collections.abc import Collection, Iterable

NO_COMPILER = "compile=true needs a C++ compiler, and none was found: apt install g++, or compile=false"


class UserError(ValueError):
    """Error that the user can fix. Its message, one line, has the setting or file, the value, and the fix.

    Commands print the message without a traceback and exit with code 2.
    """


def require_one_of(name: str, value: object, choices: Collection[str]) -> None:
    """Raise a UserError unless `value`, of the setting or argument `name`, is one of `choices`."""
    if value not in choices:
        raise UserError(f"{name}={value} must be one of {', '.join(choices)}")


def printable(path: str | bytes | os.PathLike) -> str:
    """Path or name on one line: bytes that are not UTF-8, control characters and line ends become Python's escapes.

    All letters, marks and spaces stay as they are, so that a name is equal to the same name in a table.
    """
    text = os.fsdecode(path)
    return text if text.isprintable() else "".join(map(_escaped, text))


def _escaped(character: str) -> str:
    if "\udc80" <= character <= "\udcff":  # a byte that is not UTF-8
        return f"\\x{ord(character) - 0xDC00:02x}"
    escapes = unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp")
    return repr(character)[1:-1] if escapes else character


def did_you_mean(name: str, known: Iterable[str], number: int = 1) -> str:
    """The text "; did you mean ...?" with the most similar names, or "" if none is similar."""
    near = difflib.get_close_matches(name, list(known), n=number)
    return f"; did you mean {', '.join(near)}?" if near else ""
