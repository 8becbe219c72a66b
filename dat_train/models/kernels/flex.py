"""torch's flex_attention, and deformable attention by it."""

import functools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from dat_train.models.geometry import query_points


def flex_attention(device: torch.device) -> Callable[..., Tensor]:
    """torch's function: compiled to a kernel on CUDA; elsewhere its dense reference, for comparison alone."""
    return _compiled() if device.type == "cuda" else _reference()


def _reference() -> Callable[..., Tensor]:
    from torch.nn.attention.flex_attention import flex_attention

    return flex_attention


@functools.cache
def _compiled() -> Callable[..., Tensor]:
    allow_graphs(64)  # a kernel for each size of maps, batch and mode; past the limit it would be dense
    return torch.compile(_reference(), dynamic=False)


def allow_graphs(number: int) -> None:
    """Let torch compile so many graphs of one function, which it runs eagerly beyond its limit of eight."""
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, number)


def flex_deformable_attention(q: Tensor, kv: Tensor, positions: Tensor, table: Tensor, geometry: str) -> Tensor:
    """`deformable_attention` of models/kernels/deformable_attention.py: the bias as a change of each score.

    Gradients of positions and table are added up in no fixed order.
    """
    B, H, W, C = q.shape
    (heads, h, w), G = table.shape, positions.shape[1]
    k, v = kv.view(B, -1, 2, heads, C // heads).permute(2, 0, 3, 1, 4).unbind(0)
    query_y, query_x = query_points(H, geometry, positions), query_points(W, geometry, positions)
    key_y, key_x = positions.flatten(2, 3).unbind(-1)
    cells = F.pad(table.to(positions.dtype), (2, 2, 2, 2))  # with zeros: nothing that is read needs a check
    # one table for each of the four reads: torch's compiler gives a tensor that it adds gradients to one read alone
    upper_left, upper_right, lower_left, lower_right = (cells.clone() for _ in range(4))

    def with_bias(score: Tensor, b: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        group = head // (heads // G)
        row, down = _place(query_y[query // W] - key_y[b, group, key], h)
        column, right = _place(query_x[query % W] - key_x[b, group, key], w)
        upper = upper_left[head, row, column] * (1 - right) + upper_right[head, row, column + 1] * right
        lower = lower_left[head, row + 1, column] * (1 - right) + lower_right[head, row + 1, column + 1] * right
        return score + (upper * (1 - down) + lower * down).to(score.dtype)

    out = flex_attention(q.device)(q.view(B, H * W, heads, -1).transpose(1, 2), k, v, score_mod=with_bias)
    return out.transpose(1, 2).reshape(B, H, W, C)


def _place(displacement: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Along an axis of a table of `size` cells, padded by two: the cell before half the displacement, and the rest."""
    t = ((displacement / 2 + 1) * ((size - 1) / 2)).clamp(-2, size)
    first = t.detach().floor()
    return first.int() + 2, t - first
