"""Attention inside the windows of a map."""

import functools
import math
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from dat_train.models.kernels.linear import product
from dat_train.models.kernels.parts import added, joined, parts, wants_gradient


def window_attention(qkv: Tensor, bias: Tensor, heads: int, dropout: float = 0.0) -> Tensor:
    """softmax(q k^T / sqrt(d) + bias) v inside every window.

    Args:
        qkv: (B, windows, n, 3C), n positions a window.
        bias: (heads, n, n), the same for all windows; or (windows, heads, n, n).
        dropout: probability that a weight of the attention is dropped.

    Shape: -> (B, windows, n, C).
    """
    B, windows, n, C = qkv.shape[0], qkv.shape[1], qkv.shape[2], qkv.shape[3] // 3
    qkv = qkv.view(B, windows, n, 3, heads, C // heads).permute(3, 0, 1, 4, 2, 5)
    # windows stand beside the batch, or, where each has its own bias, beside the heads
    shape = [3, B * windows, heads, n, C // heads] if bias.dim() == 3 else [3, B, windows * heads, n, C // heads]
    q, k, v = qkv.reshape(shape).unbind(0)
    mask = bias.reshape(1, shape[2], n, n).to(q.dtype)
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)
    return out.view(B, windows, heads, n, C // heads).transpose(2, 3).reshape(B, windows, n, C)


def into_windows(x: Tensor, w: int, shift_y: int, shift_x: int) -> Tensor:
    """(B, H, W, C), rolled by -shift -> (B, windows, w*w, C), H and W multiples of w."""
    B, H, W, C = x.shape
    if shift_y > 0 or shift_x > 0:
        x = torch.roll(x, (-shift_y, -shift_x), (1, 2))
    x = x.view(B, H // w, w, W // w, w, C).transpose(2, 3)
    return x.reshape(B, -1, w * w, C)


def out_of_windows(x: Tensor, w: int, H: int, W: int, shift_y: int, shift_x: int) -> Tensor:
    """The inverse of `into_windows`."""
    B, C = x.shape[0], x.shape[3]
    x = x.view(B, H // w, W // w, w, w, C).transpose(2, 3).reshape(B, H, W, C)
    if shift_y > 0 or shift_x > 0:
        x = torch.roll(x, (shift_y, shift_x), (1, 2))
    return x


def window_attention_in_parts(
    x: Tensor,
    w_qkv: Tensor,
    b_qkv: Tensor,
    w_proj: Tensor,
    b_proj: Tensor,
    bias: Tensor,
    heads: int,
    shift: tuple[int, int],
) -> Tensor:
    """Projection, attention inside the windows of a map rolled by -shift, and projection, on a CPU.

    Args:
        x: (B, H, W, C), H and W multiples of the windows' side.
        w_qkv, b_qkv, w_proj, b_proj: of the projections, (3C, C), (3C), (C, C), (C).
        bias: (heads, n, n), or (windows, heads, n, n).

    Shape: -> (B, H, W, C).
    """
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
    weights = [tensor.to(dtype) for tensor in (w_qkv, b_qkv, w_proj, b_proj, bias)]
    with torch.autocast("cpu", enabled=False):
        return _WindowAttention.apply(x.to(dtype), *weights, heads, shift, wants_gradient(x, *weights))


class _Windows(NamedTuple):
    """How the windows of an image lie in its rows of tokens: `down` times `across` of them, of side `w`.

    Rows of an unshifted map are taken as they are. Those of a rolled map are gathered first, window after window, which
    is a map one window wide.
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
    """In parts of images, from the map to the map: windows, queries, keys and values never exist for a whole batch.

    Keeps queries, keys and values, the attention's weights and its output, each in pieces of a part. Pieces are taken
    from memory that the last step has used; a tensor of tens of megabytes would be fresh pages every time.
    """

    @staticmethod
    def forward(ctx, x, w_qkv, b_qkv, w_proj, b_proj, bias, heads, shift, keep):
        B, H, W, C = x.shape
        windows = _windows(H, W, math.isqrt(bias.shape[-1]), shift)
        tokens = x.reshape(B, H * W, C)
        kept, out = [], []
        for part in _image_parts(tokens, bias, heads):
            qkv = product(windows.gathered(tokens[part]), w_qkv, b_qkv)
            q, k, v = windows.split(qkv, 3, heads)
            logits = _tiled(bias, len(q) // heads).baddbmm_(q, k.mT, alpha=q.shape[-1] ** -0.5)
            p = torch.softmax(logits, -1, out=logits)
            o = windows.merged(p @ v, 1, heads)
            out.append(windows.put_back(product(o, w_proj, b_proj)))
            if keep:
                kept += qkv, p, o
        ctx.heads, ctx.shift, ctx.bias_shape = heads, shift, bias.shape
        if keep:
            ctx.save_for_backward(x, w_qkv, w_proj, *kept)
        return joined(out).view(B, H, W, C)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_out):
        x, w_qkv, w_proj, *kept = ctx.saved_tensors
        B, H, W, C = x.shape
        heads, scale = ctx.heads, (C // ctx.heads) ** -0.5
        windows = _windows(H, W, math.isqrt(ctx.bias_shape[-1]), ctx.shift)
        tokens, grad_tokens = x.reshape(B, H * W, C), grad_out.reshape(B, H * W, C)
        need_x, *need_weights = ctx.needs_input_grad[:6]
        d_x, d_weights, end = [], [None] * 5, 0
        with torch.autocast("cpu", enabled=False):
            for qkv, p, o in zip(*[iter(kept)] * 3, strict=True):
                part = slice(end, end := end + len(o) // (H * W))
                grad = windows.gathered(grad_tokens[part])
                q, k, v = windows.split(qkv, 3, heads)
                (d_o,) = windows.split(product(grad, w_proj.t()), 1, heads)
                d_logits = torch._softmax_backward_data(d_o @ v.mT, p, -1, p.dtype)
                d_heads = qkv.new_empty(3, *q.shape)
                torch.bmm(p.mT, d_o, out=d_heads[2])
                torch.bmm(d_logits, k, out=d_heads[0]).mul_(scale)
                torch.bmm(d_logits.mT, q, out=d_heads[1]).mul_(scale)
                d_qkv = windows.merged(d_heads, 3, heads)
                if any(need_weights):
                    rows, d_bias = windows.gathered(tokens[part]), d_logits.view(-1, *ctx.bias_shape).sum(0)
                    shares = d_qkv.t() @ rows, d_qkv.sum(0), grad.t() @ o, grad.sum(0), d_bias
                    d_weights = [added(total, share) for total, share in zip(d_weights, shares, strict=True)]
                if need_x:
                    d_x.append(windows.put_back(product(d_qkv, w_qkv.t())))
        d_weights = [d.to(x.dtype) if need else None for d, need in zip(d_weights, need_weights, strict=True)]
        return joined(d_x).view_as(x) if need_x else None, *d_weights, None, None, None


@functools.lru_cache(maxsize=64)
def _window_order(H: int, W: int, w: int, shift_y: int, shift_x: int) -> tuple[np.ndarray, np.ndarray]:
    """(H*W,) positions of a map, window after window of the rolled one, and the inverse of this order.

    Arrays, because a tensor remembers the mode it was made in (inference, fake), and would carry it into other steps.
    """
    order = np.roll(np.arange(H * W).reshape(H, W), (-shift_y, -shift_x), (0, 1))
    order = order.reshape(H // w, w, W // w, w).swapaxes(1, 2).reshape(-1)
    return order, np.argsort(order)


def _image_parts(tokens: Tensor, bias: Tensor, heads: int) -> list[slice]:
    B, positions, _ = tokens.shape
    return parts(B, positions * heads * bias.shape[-1] * tokens.element_size())


def _tiled(bias: Tensor, windows: int) -> Tensor:
    """A bias (heads, n, n) or (windows of an image, heads, n, n) for so many windows: (windows * heads, n, n)"""
    n = bias.shape[-1]
    block = bias.reshape(-1, n, n)
    times = windows * bias.shape[-3] // len(block)
    return block.repeat(times, 1, 1)
