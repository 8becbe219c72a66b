"""Splitting of computations into chunks that fit the cache of a CPU.

A tensor of tens of megabytes is written to fresh pages of memory, which the operating system has to provide and to
clear. A chunk reuses the memory of the previous chunk. This accounts for most of the speedup of the kernels.
"""

import torch
from torch import Tensor

CHUNK_BYTES = 2 << 20  # of the largest temporary tensor, per thread: about an L2 cache


def chunks(size: int, bytes_each: int) -> list[slice]:
    """Slices of range(size), of equal length, whose items fill about CHUNK_BYTES per thread.

    They depend only on the sizes and the number of threads, so sums over chunks have the same order in every run.

    Args:
        size: number of items.
        bytes_each: bytes of an item.
    """
    length = max(1, CHUNK_BYTES * torch.get_num_threads() // max(bytes_each, 1))
    count = max(1, -(-size // length))
    length = -(-size // count)
    return [slice(start, min(start + length, size)) for start in range(0, size, max(length, 1))]


def needs_gradient(*tensors: Tensor) -> bool:
    """Return True if a backward pass may follow, which needs intermediate results."""
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)


def autocast_dtype(x: Tensor) -> torch.dtype:
    """Data type in which a matrix product of `x` is computed."""
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype


def cat(pieces: list[Tensor]) -> Tensor:
    """Results of all chunks, concatenated; without a copy for a single chunk."""
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces)


def accumulate(total: Tensor | None, share: Tensor) -> Tensor:
    """Sum over chunks, in at least float32; `share` may be bfloat16."""
    return share if total is None else total.to(torch.promote_types(share.dtype, torch.float32)).add_(share)
