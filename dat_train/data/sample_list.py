"""Compact sequence of labeled paths."""

import os
from collections.abc import Iterable, Iterator, Sequence

import numpy as np


class SampleList(Sequence[tuple[str, int]]):
    """Sequence of (path, label) pairs, kept in three arrays instead of millions of Python objects.

    Data workers are copies of the training process. Reading a Python object writes to its reference count, so each
    worker would end up with its own copy of every path. Arrays stay shared, and are fast to send to new processes.
    """

    def __init__(self, samples: Iterable[tuple[str, int]]) -> None:
        labels, ends, blob = [], [0], bytearray()
        for path, label in samples:
            blob += os.fsencode(path)
            ends.append(len(blob))
            labels.append(label)
        self._blob = bytes(blob)
        self._ends = np.array(ends, np.int64)
        self._labels = np.array(labels, np.int64)

    @property
    def labels(self) -> np.ndarray:
        """(number of samples,) int64."""
        return self._labels

    def with_labels(self, labels: np.ndarray) -> "SampleList":
        """Return the same paths with other labels, (number of samples,) int64."""
        other = SampleList([])
        other._blob, other._ends, other._labels = self._blob, self._ends, np.asarray(labels, np.int64)
        return other

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> tuple[str, int]:
        """Return the pair at `index`; negative indices count from the end."""
        index = range(len(self))[index]  # its IndexError ends an iteration
        return os.fsdecode(self._blob[self._ends[index] : self._ends[index + 1]]), int(self._labels[index])

    def __iter__(self) -> Iterator[tuple[str, int]]:
        return (self[index] for index in range(len(self)))
