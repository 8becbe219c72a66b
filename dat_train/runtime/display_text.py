"""Text of unknown content (class names, paths) for one line of a terminal, a picture or a page."""

import unicodedata

from rich.cells import cell_len

BIDI_CONTROLS = {*range(0x202A, 0x202F), *range(0x2066, 0x206A)}  # they change the direction of the text after them


def one_line(text: str, limit: int | None = None) -> str:
    """Return `text` on one line, printable in UTF-8, shortened to `limit` terminal columns with an ellipsis.

    Line breaks and control characters become spaces. Bytes of a file name that are not UTF-8 become \\xNN.
    """
    text = " ".join("".join(map(_printable, text)).split())
    if limit is None or cell_len(text) <= limit:
        return text
    while text and cell_len(text) > limit - 1:
        text = text[:-1]
    return text.rstrip() + "…"


def _printable(character: str) -> str:
    code, category = ord(character), unicodedata.category(character)
    if 0xDC80 <= code <= 0xDCFF:  # a byte that Python's surrogateescape kept
        return f"\\x{code - 0xDC00:02x}"
    if category == "Cs":
        return f"\\u{code:04x}"
    if code in BIDI_CONTROLS:
        return ""
    return " " if category in ("Cc", "Zl", "Zp") else character
