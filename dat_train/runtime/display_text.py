"""Conversion of arbitrary text (class names, paths) to one printable line for a terminal, a picture or a page."""

import math
import unicodedata
from collections.abc import Sequence

from rich.cells import cell_len, set_cell_size

BIDI_CONTROLS = {*range(0x202A, 0x202F), *range(0x2066, 0x206A)}  # these change the direction of the following text
NAME_WIDTH = 24  # columns of a class name on a terminal or a picture
MAX_CLASSES = 12  # lines of `lowest_classes`


def one_line(text: str, limit: int | None = None) -> str:
    """Return `text` on one line, printable in UTF-8, shortened to `limit` terminal columns with an ellipsis.

    Line breaks and control characters become spaces. Bytes of a file name that are not UTF-8 become \\xNN.
    """
    text = " ".join("".join(map(_printable, text)).split())
    if limit is None or cell_len(text) <= limit:
        return text
    return set_cell_size(text, limit - 1).rstrip() + "…"


def table(topics: Sequence[tuple[str, str]]) -> str:
    """Format (topic, text) pairs as aligned lines."""
    width = max(len(topic) for topic, _ in topics)
    return "\n".join(f"  {topic:<{width}}  {text}" for topic, text in topics)


def lowest_classes(classes: Sequence[str], values: Sequence[float], heading: str) -> list[str]:
    """Lines with the names and values of the classes with the lowest values; NaN is left out."""
    known = sorted((k for k in range(len(classes)) if not math.isnan(values[k])), key=lambda k: values[k])
    title = "class" if len(known) <= MAX_CLASSES else f"class (lowest {MAX_CLASSES} of {len(known)})"
    shown = [(one_line(classes[k], NAME_WIDTH), f"{values[k]:.2f}") for k in known[:MAX_CLASSES]]
    width = max(len(name) for name in (title, *(name for name, _ in shown)))
    return [f"{name:<{width}}   {value:>6}" for name, value in [(title, heading), *shown]]


def _printable(character: str) -> str:
    code, category = ord(character), unicodedata.category(character)
    if 0xDC80 <= code <= 0xDCFF:  # a byte that Python's surrogateescape kept
        return f"\\x{code - 0xDC00:02x}"
    if category == "Cs":
        return f"\\u{code:04x}"
    if code in BIDI_CONTROLS:
        return ""
    return " " if category in ("Cc", "Zl", "Zp") else character
