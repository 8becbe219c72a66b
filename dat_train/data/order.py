"""Sample order as a pure function of (seed, epoch, step), independent of rank and number of workers."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from torch.utils.data import Sampler

from dat_train.data.randomness import keyed_seed


class SampleKey(NamedTuple):
    """Key of a sample's augmentation: epoch, index in the set, and number of the repeat within the epoch."""

    epoch: int
    index: int
    repeat: int


def epoch_order(seed: int, epoch: int, size: int, repeats: int = 1) -> np.ndarray:
    """Return the sample index and the repeat at every position of an epoch, (size, 2) int64.

    With `repeats` > 1 each sample occurs that many times in a row, and the epoch still has `size` positions.

    Source: repeated augmentation, Hoffer et al., CVPR 2020, as in DeiT.
    """
    shuffled = np.random.default_rng(keyed_seed("order", seed, epoch)).permutation(size)
    positions = np.arange(size)
    return np.stack([shuffled[positions // repeats], positions % repeats], axis=1)


class MicroBatchSampler(Sampler[list[SampleKey]]):
    """Micro-batches of one process in the order of steps, each a list of keys.

    Step s of an epoch takes positions [s * batch_size, (s + 1) * batch_size) of the epoch's order. Micro-batch m is the
    m-th slice of them and belongs to process m % world_size. The last incomplete batch of an epoch is left out.

    Args:
        size: samples of the training set.
        first_step, last_step: steps of the run, counted from 0; last_step is not included.
    """

    def __init__(
        self,
        size: int,
        *,
        seed: int,
        batch_size: int,
        micro_batch_size: int,
        first_step: int,
        last_step: int,
        rank: int = 0,
        world_size: int = 1,
        repeats: int = 1,
    ) -> None:
        self.size = size
        self.seed = seed
        self.batch_size = batch_size
        self.micro_batch_size = micro_batch_size
        self.first_step = first_step
        self.last_step = last_step
        self.rank = rank
        self.world_size = world_size
        self.repeats = repeats

    def __len__(self) -> int:
        per_step = len(range(self.rank, self.batch_size // self.micro_batch_size, self.world_size))
        return per_step * max(0, self.last_step - self.first_step)

    def order(self, epoch: int) -> np.ndarray:
        """Sample index and repeat at every position of an epoch, (size, 2) int64."""
        return epoch_order(self.seed, epoch, self.size, self.repeats)

    def __iter__(self) -> Iterator[list[SampleKey]]:
        steps_per_epoch = self.size // self.batch_size
        epoch, order = -1, np.empty((0, 2), np.int64)
        for step in range(self.first_step, self.last_step):
            if step // steps_per_epoch != epoch:
                epoch = step // steps_per_epoch
                order = self.order(epoch)
            start = step % steps_per_epoch * self.batch_size
            for m in range(self.rank, self.batch_size // self.micro_batch_size, self.world_size):
                first = start + m * self.micro_batch_size
                rows = order[first : first + self.micro_batch_size].tolist()
                yield [SampleKey(epoch, index, repeat) for index, repeat in rows]


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
