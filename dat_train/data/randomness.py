"""Random draws that follow from what they are for: no generator's state is carried, saved or restored."""

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def keyed_seed(*key: int | str) -> int:
    """A seed of 63 bits that follows from `key` alone; the same on every machine.

    keyed_seed("sample", seed, epoch, index, repeat)
    """
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


@contextmanager
def keyed_randomness(*key: int | str) -> Iterator[None]:
    """Inside, Python's, NumPy's and torch's CPU generator draw what follows from `key`; then they are as before."""
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
