"""Window attention and its shifted form: block letters `L` and `S` (spec: "Window attention")."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dat_train.models.blocks import Linear, is_bare
from dat_train.models.kernels.choice import implementation
from dat_train.models.kernels.window_attention import (
    into_windows,
    out_of_windows,
    window_attention,
    window_attention_in_parts,
)


class WindowAttention(nn.Module):
    """Self-attention inside w x w windows with a learned relative position bias.

    Source: Swin (Liu et al., ICCV 2021, section 3.2) as DAT uses it: the shift is ceil(w / 2), not floor, and pairs
    from different regions of a rolled map get -100 added to their logit.

    A map whose sides are no multiples of w is padded right and below; padded keys are masked out. An axis that fits
    into a single window is not shifted.

    Args:
        dim: channels C, a multiple of `heads`.
        heads: attention heads.
        window_size: side w of a window, in positions.
        shifted: roll the map by ceil(w / 2) first and back afterwards.

    Shape: (B, H, W, C) -> (B, H, W, C), any H, W >= 1.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        window_size: int,
        shifted: bool = False,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
    ) -> None:
        super().__init__()
        self.heads = heads
        self.window_size = window_size
        self.shift = (window_size + 1) // 2 if shifted else 0
        self.attn_drop = attn_drop
        self.qkv = Linear(dim, 3 * dim)
        self.relative_position_bias_table = nn.Parameter(torch.empty((2 * window_size - 1) ** 2, heads))
        self.register_buffer("relative_position_index", _relative_position_index(window_size), persistent=False)
        self.proj = Linear(dim, dim)
        self.proj_drop = nn.Dropout(proj_drop)
        self.reset_bias()

    def reset_bias(self) -> None:
        """Start the bias table from a truncated normal, std 0.01."""
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.01)

    def forward(self, x: Tensor) -> Tensor:
        H, W, w = x.shape[1], x.shape[2], self.window_size
        pad_y, pad_x = (w - H % w) % w, (w - W % w) % w
        rows, columns = (H + pad_y) // w, (W + pad_x) // w
        shift_y = self.shift if rows > 1 else 0
        shift_x = self.shift if columns > 1 else 0

        if pad_y > 0 or pad_x > 0:
            x = F.pad(x, (0, 0, 0, pad_x, 0, pad_y))
        # (heads, n, n), n = w*w; a lookup whose gradient is added up in the same order in every run
        bias = F.embedding(self.relative_position_index, self.relative_position_bias_table).permute(2, 0, 1)
        if pad_y > 0 or pad_x > 0 or shift_y > 0 or shift_x > 0:
            bias = self._mask(H, W, rows, columns, shift_y, shift_x, bias).unsqueeze(1) + bias  # (windows, heads, n, n)
        dropout = self.attn_drop if self.training else 0.0
        if not torch.jit.is_scripting():
            qkv, proj = self.qkv, self.proj
            if implementation(x) == "parts" and dropout == 0 and is_bare(qkv) and is_bare(proj):
                weights = qkv.weight, qkv.bias, proj.weight, proj.bias
                x = window_attention_in_parts(x, *weights, bias, self.heads, (shift_y, shift_x))
                return self.proj_drop(x[:, :H, :W])
        x = into_windows(x, w, shift_y, shift_x)
        x = window_attention(self.qkv(x), bias, self.heads, dropout)
        x = out_of_windows(x, w, rows * w, columns * w, shift_y, shift_x)
        if pad_y > 0 or pad_x > 0:
            x = x[:, :H, :W].contiguous()  # torch multiplies other layouts by trained and frozen weights differently
        return self.proj_drop(self.proj(x))

    def _mask(self, H: int, W: int, rows: int, columns: int, shift_y: int, shift_x: int, like: Tensor) -> Tensor:
        """Additive mask (windows, w*w, w*w): -100 between regions of the rolled map, -inf on padded keys."""
        w = self.window_size
        y = torch.arange(rows * w, device=like.device)
        x = torch.arange(columns * w, device=like.device)
        region = (y >= rows * w - shift_y).unsqueeze(1) * 2 + (x >= columns * w - shift_x).unsqueeze(0) * 1
        padded = ((y + shift_y) % (rows * w) >= H).unsqueeze(1) | ((x + shift_x) % (columns * w) >= W).unsqueeze(0)
        region = region.view(rows, w, columns, w).transpose(1, 2).reshape(rows * columns, w * w)
        padded = padded.view(rows, w, columns, w).transpose(1, 2).reshape(rows * columns, 1, w * w)
        mask = torch.zeros((rows * columns, w * w, w * w), dtype=like.dtype, device=like.device)
        mask = mask.masked_fill(region.unsqueeze(1) != region.unsqueeze(2), -100.0)
        return mask.masked_fill(padded, float("-inf"))


def _relative_position_index(w: int) -> Tensor:
    """(w*w, w*w) row of the bias table for each (query, key) of a window: (dy + w - 1) * (2w - 1) + (dx + w - 1)."""
    y, x = torch.meshgrid(torch.arange(w), torch.arange(w), indexing="ij")
    y, x = y.flatten(), x.flatten()
    dy, dx = y[:, None] - y[None, :], x[:, None] - x[None, :]
    return (dy + w - 1) * (2 * w - 1) + (dx + w - 1)
