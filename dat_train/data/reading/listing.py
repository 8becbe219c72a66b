"""Expand files, folders, glob patterns and lists of paths to image paths."""

import codecs
import glob
import os
from collections.abc import Callable, Iterable
from pathlib import Path

from dat_train.data.reading.image_files import LeftOut, image_paths, suffix_list
from dat_train.errors import UserError

FROM_LIST = "-"


def list_images(
    names: Iterable[str], read_list: Callable[[], bytes] = bytes, note: Callable[[str], object] = str
) -> list[str]:
    """Return image paths, in the order they were named.

    Args:
        names: a file (of any name, existing or not: errors are reported when it is read), a folder (all images below
            it, sorted), a pattern with *, ? or [...] (** for any folders; the files, sorted), or "-", a list.
        read_list: reads the list of "-", see `parse_list`.
        note: called with a line for each kind of omitted files in a folder.

    Raises:
        UserError: a folder without images, or a pattern that matches no file.
    """
    found: list[str] = []
    for name in names:
        if name == FROM_LIST:
            for path in parse_list(read_list()):
                found += _expand(path, note)
        elif not Path(name).exists() and glob.has_magic(name):
            found += _matching(name)
        else:
            found += _expand(name, note)
    return found


def parse_list(content: bytes) -> list[str]:
    """Return the paths in a list, without empty ones.

    The list has one path on each line, or paths that end with a NUL byte (find -print0). It may begin with a byte order
    mark, and may be UTF-16, as written by Windows shells.
    """
    encoding = _utf16(content)
    if encoding:
        text = content.decode(encoding, "replace").lstrip("\ufeff")
    else:
        text = os.fsdecode(content.removeprefix(codecs.BOM_UTF8))
    if "\0" in text:
        return [path for path in text.split("\0") if path]
    end = "\n" if "\n" in text else "\r"  # old programs on a Mac end lines with a carriage return only
    return [path for line in text.split(end) if (path := line.rstrip("\r"))]


def _utf16(content: bytes) -> str | None:
    """Encoding of a UTF-16 list, with or without a byte order mark; None: another encoding."""
    if content.startswith(codecs.BOM_UTF16_LE):
        return "utf-16-le"
    if content.startswith(codecs.BOM_UTF16_BE):
        return "utf-16-be"
    half = len(content) // 2
    # every second byte of Latin letters in UTF-16 is zero; between NUL-terminated paths there are far fewer
    if half and content[1::2].count(0) > half // 2:
        return "utf-16-le"
    if half and content[0::2].count(0) > half // 2:
        return "utf-16-be"
    return None


def _expand(name: str, note: Callable[[str], object]) -> list[str]:
    if not Path(name).is_dir():
        return [name]
    left_out = LeftOut()
    images = image_paths(name, left_out)
    if not images:
        raise UserError(f"{name} has no images in it ({suffix_list()}, ...)")
    for text in left_out.notes(name):
        note(text)
    return images


def _matching(pattern: str) -> list[str]:
    found = glob.glob(pattern, recursive=True)  # noqa: PTH207  keeps the pattern's own "./" and "../"
    files = sorted(path for path in found if Path(path).is_file())
    if not files:
        raise UserError(f"no file matches {pattern}")
    return files
