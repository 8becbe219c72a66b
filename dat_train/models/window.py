"""Window attention, regular and shifted: block letters `L` and `S` (docs/model.md, "Window attention").

Functions with control flow on shapes are marked with torch.fx.wrap: symbolic tracing records a call of them.
"""

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from timm.layers import gen_relative_position_index
from torch import Tensor, nn

from dat_train.models.legacy_names import accept_legacy_names


class WindowAttention(nn.Module):
    """Self-attention inside w x w windows with a learned relative position bias.

    A map whose sides are not multiples of w is padded right and below; padded keys are masked. An axis with a single
    window is not shifted.

    Args:
        dim: channels C, a multiple of `num_heads`.
        num_heads: attention heads M.
        window_size: side w of a window, in positions.
        shifted: roll the map by ceil(w / 2) first and back afterwards.
        attn_drop: dropout probability of the attention weights.
        proj_drop: dropout probability of the output.

    Shape: (B, H, W, C) -> (B, H, W, C), any H, W >= 1.

    Source: Swin (Liu et al., ICCV 2021, section 3.2) as in DAT: the shift is ceil(w / 2) instead of Swin's
    floor(w / 2).
    """

    @accept_legacy_names
    def __init__(
        self,
        dim: int,
        num_heads: int,
        window_size: int,
        *,
        shifted: bool = False,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.window_size = window_size
        self.shift = (window_size + 1) // 2 if shifted else 0
        self.attn_drop = attn_drop
        self.qkv = nn.Linear(dim, 3 * dim)
        self.relative_position_bias_table = nn.Parameter(torch.empty((2 * window_size - 1) ** 2, num_heads))
        # (w*w, w*w) row of the table for each query and key: (dy + w - 1) * (2w - 1) + (dx + w - 1)
        index = gen_relative_position_index((window_size, window_size))
        self.register_buffer("relative_position_index", index, persistent=False)
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(proj_drop)
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.01)

    def forward(self, x: Tensor) -> Tensor:
        H, W = x.shape[1], x.shape[2]
        shift = axis_shifts(H, W, self.window_size, self.shift)
        x = window_partition(x, self.window_size, shift)
        bias = self.position_bias(H, W, shift)
        x = window_attention(self.qkv(x), bias, self.attn_drop if self.training else 0.0)
        x = window_reverse(x, self.window_size, shift, (H, W))
        return self.proj_drop(self.proj(x))

    def position_bias(self, H: int, W: int, shift: tuple[int, int]) -> Tensor:
        """Bias of every (query, key) of a window, with the mask of the padded and shifted map.

        Returns:
            (M, w*w, w*w) for all windows, or (windows, M, w*w, w*w) if they differ.
        """
        # The gradient of an embedding is summed in a fixed order; the gradient of indexing is not.
        bias = F.embedding(self.relative_position_index, self.relative_position_bias_table)
        return add_window_mask(rearrange(bias, "i j m -> m i j"), H, W, shift)


torch.fx.wrap("rearrange")


@torch.fx.wrap
def axis_shifts(H: int, W: int, w: int, shift: int) -> tuple[int, int]:
    """Shift along each axis: `shift`, or 0 if a single window covers the axis."""
    return shift if w < H else 0, shift if w < W else 0


@torch.fx.wrap
def window_partition(x: Tensor, w: int, shift: tuple[int, int]) -> Tensor:
    """Pad a map (B, H, W, C) to multiples of w, roll it by -shift, split it: (B, windows, w*w, C)."""
    H, W = x.shape[1:3]
    if H % w or W % w:
        x = F.pad(x, (0, 0, 0, -W % w, 0, -H % w))
    if shift != (0, 0):
        x = torch.roll(x, (-shift[0], -shift[1]), (1, 2))
    return rearrange(x, "b (rows y) (columns x) c -> b (rows columns) (y x) c", y=w, x=w)


@torch.fx.wrap
def window_reverse(x: Tensor, w: int, shift: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Inverse of `window_partition`: (B, windows, w*w, C) -> (B, H, W, C) for size (H, W)."""
    H, W = size
    x = rearrange(x, "b (rows columns) (y x) c -> b (rows y) (columns x) c", rows=(H + w - 1) // w, y=w, x=w)
    if shift != (0, 0):
        x = torch.roll(x, shift, (1, 2))
    # For a layout that is not contiguous, torch computes products with trained and with frozen weights differently.
    return x[:, :H, :W].contiguous() if H % w or W % w else x


@torch.fx.wrap
def window_attention(qkv: Tensor, bias: Tensor, dropout: float) -> Tensor:
    """softmax(q k^T / sqrt(d) + bias) v inside every window.

    Args:
        qkv: (B, windows, n, 3C) queries, keys and values of the n positions of a window.
        bias: (M, n, n) for all windows, or (windows, M, n, n).
        dropout: dropout probability of the attention weights.

    Returns:
        (B, windows, n, C).
    """
    # Windows with one bias are an axis next to the batch; windows with a bias each, next to the heads.
    batch, heads = ("(b windows)", "m") if bias.ndim == 3 else ("b", "(windows m)")
    M, B = bias.shape[-3], qkv.shape[0]
    q, k, v = rearrange(qkv, f"b windows n (qkv m d) -> qkv {batch} {heads} n d", qkv=3, m=M)
    mask = bias.reshape(1, -1, *bias.shape[-2:]).to(q.dtype)
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)
    return rearrange(out, f"{batch} {heads} n d -> b windows n (m d)", b=B, m=M)


@torch.fx.wrap
def add_window_mask(bias: Tensor, H: int, W: int, shift: tuple[int, int]) -> Tensor:
    """Add the mask of a padded or shifted map to a bias (M, w*w, w*w).

    Returns:
        (windows, M, w*w, w*w), or the unchanged bias for a map without padding and shift.
    """
    w = math.isqrt(bias.shape[-1])
    if H % w == 0 and W % w == 0 and shift == (0, 0):
        return bias
    return window_mask(bias, w, (H, W), shift)[:, None] + bias


def window_mask(like: Tensor, w: int, size: tuple[int, int], shift: tuple[int, int]) -> Tensor:
    """Mask of a padded and shifted map of size (H, W), to be added to scores: (windows, w*w, w*w).

    Pairs of positions from different regions of the rolled map get -100, as published; padded keys get -inf.
    """
    H, W = size
    rows, columns = (H + w - 1) // w, (W + w - 1) // w
    y = torch.arange(rows * w, device=like.device).view(rows, 1, w, 1)
    x = torch.arange(columns * w, device=like.device).view(1, columns, 1, w)
    rolled_y, rolled_x = y >= rows * w - shift[0], x >= columns * w - shift[1]
    region = rolled_y * 2 + rolled_x * 1
    padded = ((y >= H - shift[0]) & ~rolled_y) | ((x >= W - shift[1]) & ~rolled_x)  # a shift is smaller than the map
    region, padded = (t.view(rows * columns, w * w) for t in (region, padded))
    mask = torch.zeros(rows * columns, w * w, w * w, dtype=like.dtype, device=like.device)
    mask = mask.masked_fill(region[:, :, None] != region[:, None], -100.0)
    return mask.masked_fill(padded[:, None], float("-inf"))
