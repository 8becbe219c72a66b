"""Writing checkpoint files atomically, with a checksum; equal states give equal bytes.

A file is what torch.save writes, so `torch.load(path, weights_only=True)` reads it anywhere. The SHA-256 of its content
is stored in the comment of the zip archive. `dat_train.models.weights.checkpoint.Checkpoint` reads and verifies it.
"""

import hashlib
import os
import sys
from pathlib import Path

import torch

from dat_train.atomic import replacing
from dat_train.models.weights.checkpoint import COMMENT_BYTES, MARK


def canonical(value: object) -> object:
    """Copy nested containers of numbers, strings and tensors so that their pickle depends only on the content.

    Pickle writes a repeated object as a reference, so equal states would give different bytes if one of them has an
    object twice and the other has two equal ones. In the copy, equal strings are always one object, containers and
    tensors never. Tensors are copied to the CPU, so that training may continue while the copy is written.

    Raises:
        TypeError: a value of another type.
    """
    if isinstance(value, torch.Tensor):
        return torch.empty(value.shape, dtype=value.dtype).copy_(value.detach())
    if isinstance(value, dict):
        return {canonical(key): canonical(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)([canonical(item) for item in value])
    if isinstance(value, str):
        return sys.intern(str(value))
    if value is None or isinstance(value, bool | torch.dtype):
        return value
    for kind in (int, float):
        if isinstance(value, kind):
            return kind(value)  # NumPy's float64 is a float, but pickled as a NumPy scalar
    raise TypeError(f"a checkpoint cannot hold {type(value).__name__}: {value!r}")


def save_checkpoint(state: dict, path: Path) -> None:
    """Write `state`, which consists of the types that `canonical` supports, to `path`."""
    write_checkpoint(canonical(state), path)


def write_checkpoint(snapshot: dict, path: Path) -> None:
    """Write the result of `canonical` to `path` atomically: the file is always the complete old or new one.

    Raises:
        OSError: the disk is full, the folder read-only or missing; the old file is unchanged.
    """
    with replacing(path) as file:
        hashed = _Hashed(file)
        try:
            torch.save(snapshot, hashed)
        except RuntimeError as error:  # from torch's zip writer after a failed write
            raise hashed.error or error from None
        file.seek(-2, os.SEEK_END)
        file.write(COMMENT_BYTES.to_bytes(2, "little"))
        file.write(MARK + hashed.digest.hexdigest().encode())


class _Hashed:
    """A file for torch.save that computes the SHA-256 of everything written."""

    def __init__(self, file) -> None:
        self.file = file
        self.digest = hashlib.sha256()
        self.error: OSError | None = None

    def write(self, data) -> int:
        self.digest.update(data)
        try:
            return self.file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        self.file.flush()
