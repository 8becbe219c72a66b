"""Micro-batches of a process: the batch of a step is split into slices; slice m belongs to process m % world_size."""

from collections.abc import Callable, Iterator
from dataclasses import KW_ONLY, dataclass
from typing import NamedTuple

import numpy as np
from torch.utils.data import Sampler

from dat_train.data.order import balanced_order, block_order, epoch_order, grouped_order, window_end


class SampleKey(NamedTuple):
    """Key of a sample's augmentation: epoch, index in the set, and number of the repeat within the epoch."""

    epoch: int
    index: int
    repeat: int


@dataclass(eq=False)
class MicroBatchSampler(Sampler[list[SampleKey]]):
    """Micro-batches of one process in the order of steps, each a list of keys.

    Step s of an epoch takes positions [s * batch_size, (s + 1) * batch_size) of the epoch's order. Micro-batch m is the
    m-th slice of them and belongs to process m % world_size. The last incomplete batch of an epoch is left out.

    Args:
        size: samples of the training set.
        first_step, last_step: steps of the run, counted from 0; last_step is not included.
        repeats: consecutive augmented copies of a sample.
        labels: (size,) for an order in which every class occurs equally often, see `balanced_order`.
        storage_order: (size,) for an order by blocks, see `block_order`.
        read_ahead: called with the indices of each window of blocks before its first batch.
    """

    size: int
    _: KW_ONLY
    seed: int
    batch_size: int
    micro_batch_size: int
    first_step: int
    last_step: int
    rank: int = 0
    world_size: int = 1
    repeats: int = 1
    labels: np.ndarray | None = None
    storage_order: np.ndarray | None = None
    read_ahead: Callable[[np.ndarray], None] | None = None

    def __len__(self) -> int:
        per_step = len(range(self.rank, self.batch_size // self.micro_batch_size, self.world_size))
        return per_step * max(0, self.last_step - self.first_step)

    def __iter__(self) -> Iterator[list[SampleKey]]:
        steps_per_epoch = self.size // self.batch_size
        epoch, order, window = -1, np.empty((0, 2), np.int64), (-1, -1)
        for step in range(self.first_step, self.last_step):
            if step // steps_per_epoch != epoch:
                epoch = step // steps_per_epoch
                order = self.order(epoch)
            start = step % steps_per_epoch * self.batch_size
            if self.read_ahead and (epoch, window_end(start)) != window:
                window = (epoch, window_end(start))
                self.read_ahead(order[start : window_end(start), 0])
            for m in range(self.rank, self.batch_size // self.micro_batch_size, self.world_size):
                first = start + m * self.micro_batch_size
                rows = order[first : first + self.micro_batch_size].tolist()
                yield [SampleKey(epoch, index, repeat) for index, repeat in rows]

    def order(self, epoch: int) -> np.ndarray:
        """Sample index and repeat at every position of an epoch, (size, 2) int64."""
        if self.labels is not None:
            return balanced_order(self.seed, epoch, self.labels, self.repeats)
        if self.storage_order is not None:
            return block_order(self.seed, epoch, self.storage_order, self.repeats)
        return epoch_order(self.seed, epoch, self.size, self.repeats)


class GroupedSampler(MicroBatchSampler):
    """Micro-batches of one process in the order of steps, each of one group; see `MicroBatchSampler`.

    Args:
        groups: (size,) group of each sample.
    """

    def __init__(self, groups: np.ndarray, **arguments) -> None:
        super().__init__(len(groups), **arguments)
        self.groups = groups

    def order(self, epoch: int) -> np.ndarray:
        chosen = grouped_order(self.seed, epoch, self.groups, self.micro_batch_size)
        return np.stack([chosen, np.zeros_like(chosen)], axis=1)


class EvaluationSampler(Sampler[list[SampleKey]]):
    """Batches of one process in evaluation: process r has samples r, r + world_size, ...; none occurs twice."""

    def __init__(self, size: int, batch_size: int, rank: int = 0, world_size: int = 1) -> None:
        self.indices = range(rank, size, world_size)
        self.batch_size = batch_size

    def __len__(self) -> int:
        return -(-len(self.indices) // self.batch_size)

    def __iter__(self) -> Iterator[list[SampleKey]]:
        for first in range(0, len(self.indices), self.batch_size):
            yield [SampleKey(0, index, 0) for index in self.indices[first : first + self.batch_size]]
