"""Deformable and neighborhood attention by torch's flex_attention: kernels=flex, on CUDA.

It does not support dropout of attention weights: layers with dropout use the plain class in training.
"""

import functools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from dat_train.models.deformable import DeformableAttention, TableBias, query_points
from dat_train.models.neighborhood import MAX_SINGLE_TILE, NeighborhoodAttention


class FlexDeformableAttention(DeformableAttention):
    """DeformableAttention whose table bias is a score modification; the bias is not stored.

    Gradients of positions and table are summed in no fixed order.
    """

    def attend(self, q: Tensor, kv: Tensor, positions: Tensor) -> Tensor:
        if not isinstance(self.bias, TableBias) or (self.training and self.attn_drop > 0):
            return super().attend(q, kv, positions)
        return flex_deformable_attention(q, kv.to(q.dtype), positions, self.bias.table, self.sampling.geometry)


class FlexNeighborhoodAttention(NeighborhoodAttention):
    """NeighborhoodAttention with the neighborhood as a block mask, on maps of more than one block.

    The gradient of the bias is summed in no fixed order.
    """

    def attend(self, qkv: Tensor) -> Tensor:
        small = qkv.shape[1] * qkv.shape[2] <= MAX_SINGLE_TILE**2
        if small or (self.training and self.attn_drop > 0):
            return super().attend(qkv)
        return flex_neighborhood_attention(qkv, self.rpb, self.kernel_size)


@functools.cache
def flex_attention(device_type: str) -> Callable[..., Tensor]:
    """torch's function: compiled to a kernel on CUDA; its dense reference elsewhere, for tests."""
    from torch.nn.attention.flex_attention import flex_attention

    if device_type != "cuda":
        return flex_attention
    allow_graphs(64)  # a kernel for each size of maps, batch and mode; dense beyond the limit
    return torch.compile(flex_attention, dynamic=False)


def allow_graphs(number: int) -> None:
    """Allow torch.compile at least `number` graphs per function. The default limit is eight."""
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, number)


def flex_deformable_attention(q: Tensor, kv: Tensor, positions: Tensor, table: Tensor, geometry: str) -> Tensor:
    """Step 8 of docs/model.md with a table bias.

    Shape: q (B, H, W, C), kv (B, keys, 2C), positions (B, G, Hk, Wk, 2), table (M, h, w) -> (B, H, W, C).
    """
    B, H, W, C = q.shape
    (heads, h, w), G = table.shape, positions.shape[1]
    k, v = kv.view(B, -1, 2, heads, C // heads).permute(2, 0, 3, 1, 4).unbind(0)
    query_y, query_x = query_points(H, geometry, positions), query_points(W, geometry, positions)
    key_y, key_x = positions.flatten(2, 3).unbind(-1)
    cells = F.pad(table.to(positions.dtype), (2, 2, 2, 2))  # zeros around the table: no read needs a check
    # One table for each of the four reads: torch's compiler supports only one read of a tensor with a gradient.
    upper_left, upper_right, lower_left, lower_right = (cells.clone() for _ in range(4))

    def add_bias(score: Tensor, b: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        group = head // (heads // G)
        row, down = _cell(query_y[query // W] - key_y[b, group, key], h)
        column, right = _cell(query_x[query % W] - key_x[b, group, key], w)
        upper = upper_left[head, row, column] * (1 - right) + upper_right[head, row, column + 1] * right
        lower = lower_left[head, row + 1, column] * (1 - right) + lower_right[head, row + 1, column + 1] * right
        return score + (upper * (1 - down) + lower * down).to(score.dtype)

    out = flex_attention(q.device.type)(q.view(B, H * W, heads, -1).transpose(1, 2), k, v, score_mod=add_bias)
    return out.transpose(1, 2).reshape(B, H, W, C)


def _cell(displacement: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """First cell, and weight of the second, at half the displacement along an axis of `size` cells padded by two."""
    t = ((displacement / 2 + 1) * ((size - 1) / 2)).clamp(-2, size)
    first = t.detach().floor()
    return first.int() + 2, t - first


def flex_neighborhood_attention(qkv: Tensor, rpb: Tensor, kernel_size: int) -> Tensor:
    """`tiled_attention` of models/neighborhood.py, without dropout.

    Shape: qkv (B, H, W, 3, M, d), rpb (M, 2k-1, 2k-1) -> (B, H, W, M, d).
    """
    B, H, W, _, heads, d = qkv.shape
    k = kernel_size
    q, key, v = qkv.permute(3, 0, 4, 1, 2, 5).reshape(3, B, heads, H * W, d).unbind(0)

    def add_bias(score: Tensor, b: Tensor, h: Tensor, query: Tensor, key: Tensor) -> Tensor:
        # keys that are not neighbors are masked; clamped to read inside the table
        dy = (key // W - query // W + k - 1).clamp(0, 2 * k - 2)
        dx = (key % W - query % W + k - 1).clamp(0, 2 * k - 2)
        return score + rpb[h, dy, dx].to(score.dtype)

    block_mask = neighborhood_mask(H, W, k, str(qkv.device))
    out = flex_attention(qkv.device.type)(q, key, v, score_mod=add_bias, block_mask=block_mask)
    return out.view(B, heads, H, W, d).permute(0, 2, 3, 1, 4)


@functools.lru_cache(maxsize=64)
def neighborhood_mask(H: int, W: int, k: int, device: str):
    """Block mask of the neighborhoods of a map; the same for all layers and steps."""
    from torch.nn.attention.flex_attention import create_block_mask

    def is_neighbor(b: Tensor, h: Tensor, query: Tensor, key: Tensor) -> Tensor:
        y = key // W - (query // W - k // 2).clamp(0, H - k)
        x = key % W - (query % W - k // 2).clamp(0, W - k)
        return (y >= 0) & (y < k) & (x >= 0) & (x < k)

    with torch.inference_mode(False):  # autograd cannot save a mask that was made in inference mode
        return create_block_mask(is_neighbor, None, None, H * W, H * W, device=device)
