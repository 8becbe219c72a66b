"""Sample order and micro-batches: pure functions of (seed, epoch, step), independent of rank and number of workers."""

from collections.abc import Callable, Iterator
from dataclasses import KW_ONLY, dataclass
from typing import NamedTuple

import numpy as np
from torch.utils.data import Sampler

from dat_train.data.randomness import keyed_seed

BLOCK = 512  # neighboring samples on the disk
WINDOW = 32  # blocks among which samples are shuffled: 16,384 samples, 1.8 GB of ImageNet


class SampleKey(NamedTuple):
    """Key of a sample's augmentation: epoch, index in the set, and number of the repeat within the epoch."""

    epoch: int
    index: int
    repeat: int


def epoch_order(seed: int, epoch: int, size: int, repeats: int = 1) -> np.ndarray:
    """Return the sample index and the repeat at every position of an epoch, (size, 2) int64.

    With `repeats` > 1 each sample occurs that many times consecutively, and the epoch still has `size` positions.

    Source: repeated augmentation, Hoffer et al., CVPR 2020, as in DeiT.
    """
    shuffled = np.random.default_rng(keyed_seed("order", seed, epoch)).permutation(size)
    return _repeated(shuffled, repeats)


def balanced_order(seed: int, epoch: int, labels: np.ndarray, repeats: int = 1) -> np.ndarray:
    """Return an epoch in which every class occurs equally often, as `epoch_order` does.

    An epoch has as many positions as there are samples, divided among the classes; the rest goes to classes drawn for
    the epoch. A sample of a class is repeated only after all samples of this class were used, and then with another
    repeat number, so that its augmentation differs. Each epoch uses another part of a large class.

    Args:
        labels: (size,) of the samples.
    """
    rng = np.random.default_rng(keyed_seed("balanced", seed, epoch))
    size, classes = len(labels), np.unique(labels)
    slots = -(-size // repeats)  # positions of different draws
    counts = np.full(len(classes), slots // len(classes))
    counts[rng.permutation(len(classes))[: slots % len(classes)]] += 1
    by_label = np.split(np.argsort(labels, kind="stable"), np.searchsorted(np.sort(labels), classes)[1:])
    rows = []
    for own, count in zip(by_label, counts, strict=True):
        cycles = -(-int(count) // len(own))
        drawn = np.concatenate([rng.permutation(own) for _ in range(cycles)] or [own[:0]])[:count]
        rows.append(np.stack([drawn, np.arange(count) // len(own)], axis=1))
    rows = rng.permutation(np.concatenate(rows))  # (slots, 2)
    positions = np.arange(size)
    chosen = rows[positions // repeats]
    return np.stack([chosen[:, 0], chosen[:, 1] * repeats + positions % repeats], axis=1)


def block_order(seed: int, epoch: int, storage_order: np.ndarray, repeats: int = 1) -> np.ndarray:
    """Return an epoch in which neighboring samples on the disk are within one window, as `epoch_order` does.

    The samples are cut into blocks of BLOCK in the order of storage. The blocks are shuffled, and the samples are
    shuffled inside windows of WINDOW blocks. A disk then reads whole blocks, and a page cache of the size of
    two windows is sufficient. Samples of different windows are not mixed in batches.

    Args:
        storage_order: (size,) indices in the order in which the samples lie on the disk.
    """
    rng = np.random.default_rng(keyed_seed("blocks", seed, epoch))
    size = len(storage_order)
    blocks = np.array_split(storage_order, max(1, round(size / BLOCK)))
    order = rng.permutation(len(blocks))
    windows = [
        rng.permutation(np.concatenate([blocks[number] for number in order[first : first + WINDOW]]))
        for first in range(0, len(order), WINDOW)
    ]
    return _repeated(np.concatenate(windows), repeats)


def _repeated(shuffled: np.ndarray, repeats: int) -> np.ndarray:
    positions = np.arange(len(shuffled))
    return np.stack([shuffled[positions // repeats], positions % repeats], axis=1)


def grouped_order(seed: int, epoch: int, groups: np.ndarray, micro_batch_size: int) -> np.ndarray:
    """Return the sample index at every position of an epoch; each micro-batch has samples of one group.

    The last micro-batch of a group is filled with its first samples. Then the order of all micro-batches is drawn.

    Args:
        seed, epoch: key of the draws.
        groups: (size,) group of each sample.
        micro_batch_size: samples of a micro-batch.

    Returns:
        (size,) int64.
    """
    random = np.random.default_rng(keyed_seed("grouped order", seed, epoch))
    micro_batches = []
    for group in np.unique(groups):
        members = random.permutation(np.flatnonzero(groups == group))
        number = -(-len(members) // micro_batch_size)
        micro_batches.append(np.resize(members, number * micro_batch_size).reshape(number, micro_batch_size))
    batches = np.concatenate(micro_batches)
    return batches[random.permutation(len(batches))].ravel()[: len(groups)]


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
            if self.read_ahead and (epoch, start // (BLOCK * WINDOW)) != window:
                window = (epoch, start // (BLOCK * WINDOW))
                self.read_ahead(order[start : (window[1] + 1) * BLOCK * WINDOW, 0])
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
