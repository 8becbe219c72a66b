"""Labelled file names of a large image set, in little memory."""

import os
from collections.abc import Iterable, Iterator, Sequence

import numpy as np


class SampleList(Sequence[tuple[str, int]]):
    """(path, label) pairs, as three blocks of memory instead of millions of objects.

    Data workers are copies of the training process. Whoever looks at a Python object writes to its reference count, so
    each worker would in time get its own copy of every path; blocks stay shared and go to new processes at once.
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

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> tuple[str, int]:
        """The pair at `index`; negative ones count from the end."""
        index = range(len(self))[index]  # its IndexError ends an iteration
        return os.fsdecode(self._blob[self._ends[index] : self._ends[index + 1]]), int(self._labels[index])

    def __iter__(self) -> Iterator[tuple[str, int]]:
        return (self[index] for index in range(len(self)))
