"""Attention inside windows, and the order of tokens that makes windows of a map."""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from dat_train.models.kernels.choice import implementation
from dat_train.models.kernels.parts import parts, wants_gradient


def window_attention(qkv: Tensor, bias: Tensor, heads: int, dropout: float = 0.0) -> Tensor:
    """softmax(q k^T / sqrt(d) + bias) v inside every window.

    Args:
        qkv: (B, windows, n, 3C), n positions a window.
        bias: (heads, n, n), the same for all windows; or (windows, heads, n, n).
        dropout: probability that a weight of the attention is dropped.

    Shape: -> (B, windows, n, C).
    """
    B, windows, n, C = qkv.shape[0], qkv.shape[1], qkv.shape[2], qkv.shape[3] // 3
    if not torch.jit.is_scripting():
        chosen = implementation(qkv)
        if chosen == "parts" and dropout == 0:
            with torch.autocast("cpu", enabled=False):
                return _WindowAttention.apply(qkv, bias.to(qkv.dtype), heads, wants_gradient(qkv, bias))[0]
    qkv = qkv.view(B, windows, n, 3, heads, C // heads).permute(3, 0, 1, 4, 2, 5)
    # windows stand beside the batch, or, where each has its own bias, beside the heads
    shape = [3, B * windows, heads, n, C // heads] if bias.dim() == 3 else [3, B, windows * heads, n, C // heads]
    q, k, v = qkv.reshape(shape).unbind(0)
    mask = bias.reshape(1, shape[2], n, n).to(q.dtype)
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)
    return out.view(B, windows, heads, n, C // heads).transpose(2, 3).reshape(B, windows, n, C)


class _WindowAttention(torch.autograd.Function):
    """In parts of images. Keeps qkv and the attention weights: no copy of q, k or v, one gradient for all three."""

    @staticmethod
    def forward(qkv, bias, heads, keep):
        B, windows, n, C3 = qkv.shape
        d = C3 // 3 // heads
        out = qkv.new_empty(B, windows, n, heads, d)
        weights = qkv.new_empty(B if keep else 0, windows * heads, n, n)
        for part in _image_parts(qkv, heads):
            q, k, v = _heads(qkv[part], heads)
            logits = torch.baddbmm(_tiled(bias, len(q) // heads), q, k.transpose(1, 2), alpha=d**-0.5)
            p = torch.softmax(logits, -1, out=weights[part].view_as(logits) if keep else logits)
            out[part] = (p @ v).view(-1, windows, heads, n, d).transpose(2, 3)
        return out.view(B, windows, n, C3 // 3), weights

    @staticmethod
    def setup_context(ctx, inputs, output):
        qkv, bias, ctx.heads, _ = inputs
        ctx.bias_shape = bias.shape
        ctx.save_for_backward(qkv, output[1])
        ctx.mark_non_differentiable(output[1])

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_out, _):
        qkv, weights = ctx.saved_tensors
        heads, n = ctx.heads, qkv.shape[2]
        d = qkv.shape[3] // 3 // heads
        d_qkv = torch.empty_like(qkv)
        d_bias = qkv.new_zeros(ctx.bias_shape, dtype=torch.promote_types(qkv.dtype, torch.float32))
        with torch.autocast("cpu", enabled=False):
            for part in _image_parts(qkv, heads):
                q, k, v = _heads(qkv[part], heads)
                d_o = grad_out[part].reshape(-1, n, heads, d).transpose(1, 2).reshape(-1, n, d)
                p = weights[part].view(-1, n, n)
                d_logits = torch._softmax_backward_data(d_o @ v.transpose(1, 2), p, -1, p.dtype)
                d_parts = qkv.new_empty(3, *q.shape)
                torch.bmm(p.transpose(1, 2), d_o, out=d_parts[2])
                torch.bmm(d_logits, k, out=d_parts[0]).mul_(d**-0.5)
                torch.bmm(d_logits.transpose(1, 2), q, out=d_parts[1]).mul_(d**-0.5)
                into = d_qkv[part].view(-1, n, 3, heads, d)
                into.copy_(d_parts.view(3, -1, heads, n, d).permute(1, 3, 0, 2, 4))
                d_bias += d_logits.view(-1, *ctx.bias_shape).sum(0, dtype=d_bias.dtype)
        return d_qkv, d_bias.to(qkv.dtype), None, None


def _image_parts(qkv: Tensor, heads: int) -> list[slice]:
    B, windows, n, _ = qkv.shape
    return parts(B, windows * heads * n * n * qkv.element_size())


def _heads(qkv: Tensor, heads: int) -> Tensor:
    """(B, windows, n, 3C) -> (3, B * windows * heads, n, d)"""
    n, d = qkv.shape[2], qkv.shape[3] // 3 // heads
    return qkv.view(-1, n, 3, heads, d).permute(2, 0, 3, 1, 4).reshape(3, -1, n, d)


def _tiled(bias: Tensor, windows: int) -> Tensor:
    """A bias (heads, n, n) or (windows of an image, heads, n, n) for so many windows: (windows * heads, n, n)"""
    n = bias.shape[-1]
    block = bias.reshape(-1, n, n)
    times = windows * bias.shape[-3] // len(block)
    return block.expand(times, *block.shape).reshape(-1, n, n)


def reorder(x: Tensor, order: Tensor, inverse: Tensor) -> Tensor:
    """Tokens in another order; the gradient is put back by `inverse` instead of being added up.

    Shape: x (B, N, C), order and inverse (N) -> (B, N, C).
    """
    return _Reorder.apply(x, order, inverse)


class _Reorder(torch.autograd.Function):
    @staticmethod
    def forward(x, order, inverse):
        return x.index_select(1, order)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs[1:])

    @staticmethod
    def backward(ctx, grad):
        order, inverse = ctx.saved_tensors
        return _Reorder.apply(grad, inverse, order), None, None
