"""Sample order of an epoch as a pure function of (seed, epoch), independent of rank and number of workers."""

import numpy as np

from dat_train.data.randomness import keyed_seed

BLOCK = 512  # samples that are neighbors on the disk
WINDOW = 32  # blocks among which samples are shuffled: 16,384 samples, 1.8 GB of ImageNet


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

    The samples are split into blocks of BLOCK in the order of storage. The blocks are shuffled, and the samples are
    shuffled inside windows of WINDOW blocks. A disk then reads whole blocks, and a page cache of the size of
    two windows is sufficient. Samples of different windows are not mixed in batches.

    Args:
        storage_order: (size,) indices of the samples in the order in which they are stored.
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


def window_end(position: int) -> int:
    """End of the window of blocks that contains a position of an epoch, see `block_order`."""
    return (position // (BLOCK * WINDOW) + 1) * BLOCK * WINDOW


def _repeated(shuffled: np.ndarray, repeats: int) -> np.ndarray:
    positions = np.arange(len(shuffled))
    return np.stack([shuffled[positions // repeats], positions % repeats], axis=1)


def grouped_order(seed: int, epoch: int, groups: np.ndarray, micro_batch_size: int) -> np.ndarray:
    """Return the sample index at every position of an epoch; each micro-batch has samples of one group.

    The last micro-batch of a group is filled up with its first samples. Then the micro-batches are shuffled.

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
