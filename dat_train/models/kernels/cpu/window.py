"""Window attention in chunks of images, projections included."""

import functools
import math
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from dat_train.models.kernels.cpu.chunks import accumulate, autocast_dtype, cat, chunks, needs_gradient
from dat_train.models.kernels.cpu.linear import linear
from dat_train.models.window import WindowAttention, axis_shifts


class CPUWindowAttention(WindowAttention):
    """WindowAttention that computes windows, queries, keys and values for one chunk of images at a time."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training and self.attn_drop > 0:
            return super().forward(x)
        (H, W), w = x.shape[1:3], self.window_size
        shift = axis_shifts(H, W, w, self.shift)
        bias = self.position_bias(H, W, shift)
        x = F.pad(x, (0, 0, 0, -W % w, 0, -H % w)) if H % w or W % w else x
        dtype = autocast_dtype(x)
        weights = (self.qkv.weight, self.qkv.bias, self.proj.weight, self.proj.bias, bias)
        with torch.autocast("cpu", enabled=False):
            weights = [tensor.to(dtype) for tensor in weights]
            keep = needs_gradient(x, *weights)
            x = _WindowAttention.apply(x.to(dtype), *weights, self.num_heads, shift, keep)
        return self.proj_drop(x[:, :H, :W])


class _Windows(NamedTuple):
    """Positions of the windows of an image in its rows of tokens: `down` times `across` windows of side `w`.

    Rows of an unshifted map are used directly. Rows of a rolled map are first gathered window by window, into a map
    that is one window wide.
    """

    down: int
    across: int
    w: int
    order: Tensor | None
    inverse: Tensor | None

    def gathered(self, rows: Tensor) -> Tensor:
        """Tokens (B, H*W, C) as rows (B*H*W, C)."""
        return (rows if self.order is None else rows.index_select(1, self.order)).reshape(-1, rows.shape[-1])

    def put_back(self, rows: Tensor) -> Tensor:
        """The inverse: (B, H*W, C)."""
        rows = rows.view(-1, self.down * self.across * self.w**2, rows.shape[-1])
        return rows if self.inverse is None else rows.index_select(1, self.inverse)

    def split(self, rows: Tensor, kinds: int, heads: int) -> Tensor:
        """(B*H*W, kinds * C) -> (kinds, B * windows * heads, n, d)"""
        d, w = rows.shape[-1] // kinds // heads, self.w
        rows = rows.view(-1, self.down, w, self.across, w, kinds, heads, d)
        return rows.permute(5, 0, 1, 3, 6, 2, 4, 7).reshape(kinds, -1, w * w, d)

    def merged(self, x: Tensor, kinds: int, heads: int) -> Tensor:
        """The inverse of `split`."""
        d, w = x.shape[-1], self.w
        x = x.view(kinds, -1, self.down, self.across, heads, w, w, d)
        return x.permute(1, 2, 5, 3, 6, 0, 4, 7).reshape(-1, kinds * heads * d)


def _windows(H: int, W: int, w: int, shift: tuple[int, int]) -> _Windows:
    if shift == (0, 0):
        return _Windows(H // w, W // w, w, None, None)
    return _Windows(H // w * (W // w), 1, w, *map(torch.from_numpy, _window_order(H, W, w, *shift)))


class _WindowAttention(torch.autograd.Function):
    """Projection, attention inside the windows of a map rolled by -shift, and projection.

    Queries, keys and values, the attention weights and the output of the attention are kept for the backward pass, one
    tensor per chunk: these reuse the memory of the previous step, whereas a tensor of tens of megabytes gets fresh
    pages every time.

    Shape: x (B, H, W, C), H and W multiples of the windows' side, -> the same; bias (heads, n, n) or
    (windows, heads, n, n).
    """

    @staticmethod
    def forward(ctx, x, w_qkv, b_qkv, w_proj, b_proj, bias, heads, shift, keep):
        B, H, W, C = x.shape
        windows = _windows(H, W, math.isqrt(bias.shape[-1]), shift)
        tokens = x.reshape(B, H * W, C)
        kept, out = [], []
        for chunk in _image_chunks(tokens, bias, heads):
            qkv = linear(windows.gathered(tokens[chunk]), w_qkv, b_qkv)
            q, k, v = windows.split(qkv, 3, heads)
            logits = _tiled(bias, len(q) // heads).baddbmm_(q, k.mT, alpha=q.shape[-1] ** -0.5)
            p = torch.softmax(logits, -1, out=logits)
            o = windows.merged(p @ v, 1, heads)
            out.append(windows.put_back(linear(o, w_proj, b_proj)))
            if keep:
                kept += qkv, p, o
        ctx.heads, ctx.shift, ctx.bias_shape = heads, shift, bias.shape
        if keep:
            ctx.save_for_backward(x, w_qkv, w_proj, *kept)
        return cat(out).view(B, H, W, C)

    @staticmethod
    @once_differentiable
    def backward(ctx, d_out):
        x, w_qkv, w_proj, *kept = ctx.saved_tensors
        B, H, W, C = x.shape
        heads, scale = ctx.heads, (C // ctx.heads) ** -0.5
        windows = _windows(H, W, math.isqrt(ctx.bias_shape[-1]), ctx.shift)
        tokens, d_tokens = x.reshape(B, H * W, C), d_out.reshape(B, H * W, C)
        need_x, *need_weights = ctx.needs_input_grad[:6]
        d_x, d_weights, end = [], [None] * 5, 0
        with torch.autocast("cpu", enabled=False):
            for qkv, p, o in zip(*[iter(kept)] * 3, strict=True):
                chunk = slice(end, end := end + len(o) // (H * W))
                d = windows.gathered(d_tokens[chunk])
                q, k, v = windows.split(qkv, 3, heads)
                (d_o,) = windows.split(linear(d, w_proj.t()), 1, heads)
                d_logits = torch._softmax_backward_data(d_o @ v.mT, p, -1, p.dtype)
                d_heads = qkv.new_empty(3, *q.shape)
                torch.bmm(p.mT, d_o, out=d_heads[2])
                torch.bmm(d_logits, k, out=d_heads[0]).mul_(scale)
                torch.bmm(d_logits.mT, q, out=d_heads[1]).mul_(scale)
                d_qkv = windows.merged(d_heads, 3, heads)
                if any(need_weights):
                    rows, d_bias = windows.gathered(tokens[chunk]), d_logits.view(-1, *ctx.bias_shape).sum(0)
                    shares = d_qkv.t() @ rows, d_qkv.sum(0), d.t() @ o, d.sum(0), d_bias
                    d_weights = [accumulate(*pair) for pair in zip(d_weights, shares, strict=True)]
                if need_x:
                    d_x.append(windows.put_back(linear(d_qkv, w_qkv.t())))
        d_weights = [d_w.to(x.dtype) if need else None for d_w, need in zip(d_weights, need_weights, strict=True)]
        return cat(d_x).view_as(x) if need_x else None, *d_weights, None, None, None


@functools.lru_cache(maxsize=64)
def _window_order(H: int, W: int, w: int, shift_y: int, shift_x: int) -> tuple[np.ndarray, np.ndarray]:
    """(H*W,) positions of a map, window after window of the rolled one, and the inverse of this order.

    NumPy arrays, because a cached tensor would keep the mode of its creation (inference, fake) in later steps.
    """
    order = np.roll(np.arange(H * W).reshape(H, W), (-shift_y, -shift_x), (0, 1))
    order = order.reshape(H // w, w, W // w, w).swapaxes(1, 2).reshape(-1)
    return order, np.argsort(order)


def _image_chunks(tokens: Tensor, bias: Tensor, heads: int) -> list[slice]:
    B, positions, _ = tokens.shape
    return chunks(B, positions * heads * bias.shape[-1] * tokens.element_size())


def _tiled(bias: Tensor, windows: int) -> Tensor:
    """A bias (heads, n, n) or (windows of an image, heads, n, n) repeated for all windows: (windows * heads, n, n)."""
    n = bias.shape[-1]
    block = bias.reshape(-1, n, n)
    times = windows * bias.shape[-3] // len(block)
    return block.repeat(times, 1, 1)
