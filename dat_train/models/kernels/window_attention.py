"""Attention inside the windows of a map."""

import functools

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
    order, inverse = _window_order(x.shape[1], x.shape[2], int(bias.shape[-1] ** 0.5), *shift)
    weights = [tensor.to(dtype) for tensor in (w_qkv, b_qkv, w_proj, b_proj, bias)]
    with torch.autocast("cpu", enabled=False):
        return _WindowAttention.apply(x.to(dtype), *weights, heads, order, inverse, wants_gradient(x, *weights))


class _WindowAttention(torch.autograd.Function):
    """In parts of images, from the map to the map: windows, queries, keys and values never exist for a whole batch.

    Keeps queries, keys and values, the attention's weights and its output, each in pieces of a part. Pieces are taken
    from memory that the last step has used; a tensor of tens of megabytes would be fresh pages every time.
    """

    @staticmethod
    def forward(ctx, x, w_qkv, b_qkv, w_proj, b_proj, bias, heads, order, inverse, keep):
        B, H, W, C = x.shape
        n, d = bias.shape[-1], C // heads
        tokens = x.reshape(B, H * W, C)
        kept, out = [], []
        for part in _image_parts(tokens, heads, n):
            rows = tokens[part].index_select(1, order).view(-1, C)
            qkv = product(rows, w_qkv, b_qkv)
            q, k, v = _heads(qkv, heads, n)
            logits = _tiled(bias, len(q) // heads).baddbmm_(q, k.mT, alpha=d**-0.5)
            p = torch.softmax(logits, -1, out=logits)
            o = (p @ v).view(-1, heads, n, d).transpose(1, 2).reshape(-1, C)
            out.append(product(o, w_proj, b_proj).view(-1, H * W, C).index_select(1, inverse))
            if keep:
                kept += qkv, p, o
        ctx.heads, ctx.bias_shape = heads, bias.shape
        if keep:
            ctx.save_for_backward(x, w_qkv, w_proj, order, inverse, *kept)
        return joined(out).view(B, H, W, C)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_out):
        x, w_qkv, w_proj, order, inverse, *kept = ctx.saved_tensors
        B, H, W, C = x.shape
        heads, n = ctx.heads, ctx.bias_shape[-1]
        d = C // heads
        tokens, grad_tokens = x.reshape(B, H * W, C), grad_out.reshape(B, H * W, C)
        d_x, d_weights, end = [], [None] * 5, 0
        with torch.autocast("cpu", enabled=False):
            for qkv, p, o in zip(*[iter(kept)] * 3, strict=True):
                part = slice(end, end := end + len(o) // (H * W))
                rows = tokens[part].index_select(1, order).view(-1, C)
                grad = grad_tokens[part].index_select(1, order).view(-1, C)
                q, k, v = _heads(qkv, heads, n)
                d_o = product(grad, w_proj.t()).view(-1, n, heads, d).transpose(1, 2).reshape(-1, n, d)
                d_logits = torch._softmax_backward_data(d_o @ v.mT, p, -1, p.dtype)
                d_heads = qkv.new_empty(3, *q.shape)
                torch.bmm(p.mT, d_o, out=d_heads[2])
                torch.bmm(d_logits, k, out=d_heads[0]).mul_(d**-0.5)
                torch.bmm(d_logits.mT, q, out=d_heads[1]).mul_(d**-0.5)
                d_qkv = d_heads.view(3, -1, heads, n, d).permute(1, 3, 0, 2, 4).reshape(-1, 3 * C)
                d_bias = d_logits.view(-1, *ctx.bias_shape).sum(0, dtype=torch.promote_types(p.dtype, torch.float32))
                shares = d_qkv.t() @ rows, d_qkv.sum(0), grad.t() @ o, grad.sum(0), d_bias
                d_weights = [added(total, share) for total, share in zip(d_weights, shares, strict=True)]
                d_x.append(product(d_qkv, w_qkv.t()).view(-1, H * W, C).index_select(1, inverse))
        return joined(d_x).view_as(x), *(share.to(x.dtype) for share in d_weights), *[None] * 4


@functools.lru_cache(maxsize=64)
def _window_order(H: int, W: int, w: int, shift_y: int, shift_x: int) -> tuple[Tensor, Tensor]:
    """(H*W,) positions of a map, window after window of the rolled one, and the inverse of this order."""
    order = torch.arange(H * W).view(H, W).roll((-shift_y, -shift_x), (0, 1))
    order = order.view(H // w, w, W // w, w).transpose(1, 2).reshape(-1)
    return order, order.argsort()


def _image_parts(tokens: Tensor, heads: int, n: int) -> list[slice]:
    B, positions, _ = tokens.shape
    return parts(B, positions * heads * n * tokens.element_size())


def _heads(qkv: Tensor, heads: int, n: int) -> Tensor:
    """(windows * n, 3C) -> (3, windows * heads, n, d)"""
    d = qkv.shape[-1] // 3 // heads
    return qkv.view(-1, n, 3, heads, d).permute(2, 0, 3, 1, 4).reshape(3, -1, n, d)


def _tiled(bias: Tensor, windows: int) -> Tensor:
    """A bias (heads, n, n) or (windows of an image, heads, n, n) for so many windows: (windows * heads, n, n)"""
    n = bias.shape[-1]
    block = bias.reshape(-1, n, n)
    times = windows * bias.shape[-3] // len(block)
    return block.repeat(times, 1, 1)
