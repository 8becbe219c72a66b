"""Random access to images inside archives, by offset and size."""

import contextlib
import os
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dat_train.data.reading.archive_index import DEFLATED, ArchiveIndex

MAX_GAP = 1 << 16  # maximum number of bytes between images that are read together
LOCAL_HEADER = 30  # bytes of a zip member's header before its name


class ArchiveSource:
    """Images inside tar and zip files. Each process opens a file when it first reads from it.

    Args:
        paths: of the archives.
        index: members; those of `rows`, in this order, are the images.
    """

    def __init__(self, paths: Sequence[Path], index: ArchiveIndex, rows: np.ndarray | None = None) -> None:
        self.paths = [str(path) for path in paths]
        rows = np.arange(len(index.offsets)) if rows is None else rows
        self.archives, self.offsets = index.archives[rows], index.offsets[rows]
        self.sizes, self.methods = index.sizes[rows], index.methods[rows]
        self._zips = np.array([path.lower().endswith(".zip") for path in self.paths])
        self._files: dict[int, int] = {}
        self._process = -1

    def __getstate__(self) -> dict:
        return vars(self) | {"_files": {}, "_process": -1}

    def open(self, index: int) -> bytes:
        """Return the content of the image at `index`.

        Raises:
            OSError: the archive is gone, or shorter than when it was indexed.
        """
        number, offset, size = int(self.archives[index]), int(self.offsets[index]), int(self.sizes[index])
        if not self._zips[number]:
            return self._read(number, offset, size)
        header = self._read(number, offset, LOCAL_HEADER)
        name, extra = struct.unpack("<HH", header[26:30])
        content = self._read(number, offset + LOCAL_HEADER + name + extra, size)
        return zlib.decompress(content, -zlib.MAX_WBITS) if self.methods[index] == DEFLATED else content

    def read_ahead(self, indices: np.ndarray) -> None:
        """Ask the system to read these images into its cache, neighbors in one long read. No effect outside Linux.

        Archives that are gone are passed over, because reading their images reports them.
        """
        if not hasattr(os, "posix_fadvise"):
            return
        indices = np.asarray(indices, np.int64)
        indices = indices[np.lexsort((self.offsets[indices], self.archives[indices]))]
        archives, starts = self.archives[indices], self.offsets[indices]
        ends = starts + self.sizes[indices]
        gaps = (archives[1:] != archives[:-1]) | (starts[1:] - ends[:-1] > MAX_GAP)
        first = np.flatnonzero(np.r_[True, gaps])
        last = np.r_[first[1:], len(indices)] - 1
        for one, other in zip(first.tolist(), last.tolist(), strict=True):
            with contextlib.suppress(OSError):
                file = self._file(int(archives[one]))
                os.posix_fadvise(file, int(starts[one]), int(ends[other] - starts[one]), os.POSIX_FADV_WILLNEED)

    def _read(self, number: int, offset: int, size: int) -> bytes:
        file = self._file(number)
        content = _read_at(file, offset, size)
        if len(content) != size:
            raise OSError(f"{self.paths[number]} is shorter than when it was indexed")
        return content

    def _file(self, number: int) -> int:
        """File descriptor of an archive, in this process."""
        if self._process != os.getpid():  # a forked process shares positions in files with its parent
            self._files, self._process = {}, os.getpid()
        file = self._files.get(number)
        if file is None:
            if len(self._files) >= 64:  # there may be thousands of shards
                os.close(self._files.pop(next(iter(self._files))))
            file = self._files[number] = os.open(self.paths[number], os.O_RDONLY | getattr(os, "O_BINARY", 0))
        return file

    def select(self, indices: np.ndarray) -> "ArchiveSource":
        """Return the source of the images at `indices`."""
        index = ArchiveIndex([], self.archives, offsets=self.offsets, sizes=self.sizes, methods=self.methods, texts=[])
        return ArchiveSource([Path(path) for path in self.paths], index, np.asarray(indices, np.int64))

    def storage_order(self) -> np.ndarray:
        """Indices by archive and offset."""
        return np.lexsort((self.offsets, self.archives))


def _read_at(file: int, offset: int, size: int) -> bytes:
    """Read `size` bytes at `offset`, or up to the end of the file."""
    parts = []
    while size:
        if hasattr(os, "pread"):
            part = os.pread(file, size, offset)
        else:  # Windows; one thread reads in each process
            os.lseek(file, offset, os.SEEK_SET)
            part = os.read(file, size)
        if not part:
            break
        parts.append(part)
        offset, size = offset + len(part), size - len(part)
    return b"".join(parts)
