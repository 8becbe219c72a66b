"""Random draws as a function of a key: no generator state is carried, saved or restored."""

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def keyed_seed(*key: int | str) -> int:
    """Seed of 63 bits as a function of `key` alone, the same on every machine.

    Example: keyed_seed("sample", seed, epoch, index, repeat)
    """
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


@contextmanager
def keyed_randomness(*key: int | str) -> Iterator[None]:
    """Seed the CPU generators of Python, NumPy and torch with `key` inside the block, and restore them after it."""
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()
    seed = keyed_seed(*key)
    random.seed(seed)
    np.random.seed([seed & 0xFFFFFFFF, seed >> 32])
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.set_rng_state(before[2])
