"""Checkpoint files: old and whole, or new and whole; equal states give equal bytes; nothing in them is ever executed.

A file is what torch.save writes, so `torch.load(path, weights_only=True)` reads it anywhere, with the SHA-256 of all of
it in the zip archive's comment, where one changed bit is noticed.
"""

import contextlib
import hashlib
import os
import pickle
import sys
from pathlib import Path

import torch

from dat_train.errors import UserError

MARK = b"dat-train sha256 "
COMMENT_BYTES = len(MARK) + 64  # the mark and 64 hexadecimal digits
END_RECORD = b"PK\x05\x06"  # begins a zip archive's last 22 bytes, of which the last two are the comment's length
CHUNK = 1 << 20


class CheckpointError(UserError):
    """A checkpoint that is truncated, altered, or not one of this project's."""


def canonical(value: object) -> object:
    """A copy of nested dicts, lists, tuples, numbers, strings and tensors whose pickle depends on its content alone.

    Pickle writes an object it has met before as a reference, so equal states give different bytes when one of them
    shares a string or tuple that the other has twice; here strings are shared always and containers and tensors never.
    Tensors are copied to the CPU, so the copy stays what it is while training goes on.
    """
    if isinstance(value, torch.Tensor):
        return torch.empty(value.shape, dtype=value.dtype).copy_(value.detach())
    if isinstance(value, dict):
        return {canonical(key): canonical(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)([canonical(item) for item in value])
    if isinstance(value, str):
        return sys.intern(str(value))
    if value is None or isinstance(value, bool):
        return value
    for kind in (int, float):
        if isinstance(value, kind):
            return kind(value)  # NumPy's scalars are floats too, and no plain data to pickle
    raise TypeError(f"a checkpoint cannot hold {type(value).__name__}: {value!r}")


def save_checkpoint(state: dict, path: Path) -> None:
    """Write `state`, of what `canonical` takes, to `path`."""
    write_checkpoint(canonical(state), path)


def write_checkpoint(snapshot: dict, path: Path) -> None:
    """Write what `canonical` returned to `path`; at every moment, `path` is the old file or the new one, whole.

    Raises:
        OSError: the disk is full, the folder read-only or gone; `path` is what it was.
    """
    beside = path.with_name(f".{path.name}.new")
    try:
        with beside.open("wb") as file:
            hashed = _Hashed(file)
            torch.save(snapshot, hashed)
            file.seek(-2, os.SEEK_END)
            file.write(COMMENT_BYTES.to_bytes(2, "little"))
            file.write(MARK + hashed.digest.hexdigest().encode())
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
        sync_folder(path.parent)
    except BaseException:
        with contextlib.suppress(OSError):
            beside.unlink()
        raise


def load_checkpoint(path: Path) -> dict:
    """The state in `path`, tensors on the CPU; reads data only (`weights_only=True`).

    Raises:
        CheckpointError: the file is not what was written.
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        _verify(file, path)
        file.seek(0)
        try:
            return torch.load(file, map_location="cpu", weights_only=True)
        except (RuntimeError, pickle.UnpicklingError, EOFError, KeyError) as error:
            raise CheckpointError(f"checkpoint {path} cannot be read ({error}); use another one") from error


def sync_folder(folder: Path) -> None:
    """Make a rename in `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class _Hashed:
    """A file for torch.save that keeps the SHA-256 of what is written."""

    def __init__(self, file) -> None:
        self.file = file
        self.digest = hashlib.sha256()

    def write(self, data) -> int:
        self.digest.update(data)
        return self.file.write(data)

    def flush(self) -> None:
        self.file.flush()


def _verify(file, path: Path) -> None:
    """Compare the file with the checksum in its comment."""
    size = file.seek(0, os.SEEK_END)
    body = size - COMMENT_BYTES  # the archive as torch.save wrote it, when its comment had no length yet
    file.seek(max(0, body - 22))
    end = file.read()
    written = end[:4] == END_RECORD and end[20:22] == COMMENT_BYTES.to_bytes(2, "little") and end[22:].startswith(MARK)
    if not written:
        raise CheckpointError(f"checkpoint {path} is truncated or was not written by dat-train; use another one")
    digest = hashlib.sha256()
    file.seek(0)
    left = body - 2
    while left:
        chunk = file.read(min(CHUNK, left))
        digest.update(chunk)
        left -= len(chunk)
    digest.update(b"\0\0")
    if digest.hexdigest().encode() != end[22 + len(MARK) :]:
        raise CheckpointError(
            f"checkpoint {path} was altered after it was written (its checksum differs); use another one"
        )
