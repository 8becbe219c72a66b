"""Cutting work into parts that stay in a CPU's cache.

A tensor of tens of megabytes is written to fresh pages of memory, which the kernel has to hand out and clear; a part
of it is written to the same warm memory again and again. In a model of 224 pixels and 16 images that is worth more
than everything else here together.
"""

import torch
from torch import Tensor

PART_BYTES = 2 << 20  # of the largest temporary, per thread: about an L2 cache


def parts(size: int, bytes_each: int) -> list[slice]:
    """Slices of range(size) whose items, `bytes_each` each, fill about PART_BYTES in every thread.

    They follow from sizes and the number of threads alone, so sums over parts have the same order in every run.
    """
    length = max(1, PART_BYTES * torch.get_num_threads() // max(bytes_each, 1))
    count = max(1, -(-size // length))
    length = -(-size // count)  # of equal length
    return [slice(start, min(start + length, size)) for start in range(0, size, max(length, 1))]


def wants_gradient(*tensors: Tensor) -> bool:
    """Whether a backward pass may follow, so that its ingredients have to be kept."""
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)


def joined(pieces: list[Tensor]) -> Tensor:
    """The results of all parts, one after the other."""
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces)


def added(total: Tensor | None, share: Tensor) -> Tensor:
    """A sum over parts; a part's share may be rounded to bfloat16, their sum is not."""
    return share if total is None else total.to(torch.promote_types(share.dtype, torch.float32)).add_(share)
