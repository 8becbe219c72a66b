"""Sample order with micro-batches of one group, such as images of one orientation."""

import numpy as np

from dat_train.data.order import MicroBatchSampler
from dat_train.data.randomness import keyed_seed


def grouped_order(seed: int, epoch: int, groups: np.ndarray, micro_batch_size: int) -> np.ndarray:
    """Sample index at every position of an epoch, such that each micro-batch has samples of one group.

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
