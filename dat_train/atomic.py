"""Atomic file writing: at any time a file has either its complete old content or its complete new content.

Every file that is read back later is written with these functions. Data go to `.NAME.new` in the same folder, are
flushed to the disk, and replace the file in one step. Standard library only.
"""

import contextlib
import csv
import io
import json
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Open a binary file (readable, writable, seekable) that replaces `path` when the block ends without an error.

    Raises:
        OSError: the disk is full, or the folder is read-only or missing; `path` is unchanged.
    """
    new = path.with_name(f".{path.name}.new")
    try:
        with new.open("w+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
        sync_folder(path.parent)
    except BaseException as error:
        if isinstance(error, OSError) and error.filename is None:  # as of a full disk
            error.filename = str(path)
        with contextlib.suppress(OSError):
            new.unlink()
        raise


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path` atomically."""
    with replacing(path) as file:
        file.write(data)


def write_text(path: Path, text: str, errors: str = "strict") -> None:
    """Write `text` to `path` atomically, in UTF-8 with "\\n" line ends.

    Args:
        errors: handling of characters that UTF-8 cannot encode, as in `str.encode`.
    """
    write_bytes(path, text.encode("utf-8", errors))


def json_text(value: Any) -> str:
    """Indented JSON with readable Unicode; bytes of a file name that are not UTF-8 become JSON's \\udcNN."""
    return json.dumps(value, indent=2, ensure_ascii=False).encode("utf-8", "backslashreplace").decode()


def write_json(path: Path, value: Any) -> None:
    """Write `value` to `path` atomically as `json_text`."""
    write_text(path, json_text(value) + "\n")


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a table to `path` atomically: floats with four decimals, NaN as an empty cell, any bytes in paths."""
    shown = (
        [("" if math.isnan(cell) else f"{cell:.4f}") if isinstance(cell, float) else cell for cell in row]
        for row in rows
    )
    write_text(path, csv_text([header, *shown]), "surrogateescape")


def csv_text(rows: Iterable[Sequence[Any]]) -> str:
    """Rows as CSV with "\\n" line ends."""
    text = io.StringIO()
    minimal = csv.writer(text, lineterminator="\n")
    complete = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL)
    for row in rows:  # Python's writer does not quote a carriage return, which readers take for a line end
        (complete if any("\r" in str(value) for value in row) else minimal).writerow(row)
    return text.getvalue()


def read_json(path: Path) -> Any | None:
    """Read a derived JSON file. Returns None if it is missing or damaged, because it can be written again."""
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None


@contextmanager
def new_folder(folder: Path, is_complete: Callable[[], bool]) -> Iterator[Path]:
    """Yield an empty folder that becomes `folder` when the block ends, so that `folder` is complete or missing.

    Args:
        is_complete: returns True if another process has written `folder` in the meantime; the new one is then removed.

    Raises:
        OSError: the disk is full, or `folder` has other content.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
    try:
        yield temporary
        temporary.chmod(0o755)
        os.rename(temporary, folder)  # noqa: PTH104  replaces an empty folder, refuses a full one
    except OSError:
        if not is_complete():
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def sync_folder(folder: Path) -> None:
    """Flush the entries of `folder` to the disk, so that a rename in it survives a power failure."""
    if os.name == "nt":  # Windows cannot open folders
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
