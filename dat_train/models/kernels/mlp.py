"""Linear, GELU, Linear, on a CPU."""

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from dat_train.models.kernels.linear import product
from dat_train.models.kernels.parts import added, joined, parts, wants_gradient


def mlp_in_parts(x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> Tensor:
    """GELU(x w1^T + b1) w2^T + b2 on a CPU. Shape: (..., C) -> (..., C')."""
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
    with torch.autocast("cpu", enabled=False):
        return _Mlp.apply(x.to(dtype), w1, b1, w2, b2, wants_gradient(x, w1, b1, w2, b2))


class _Mlp(torch.autograd.Function):
    """In parts of rows. Keeps the hidden layer before the GELU alone, which the plain formulation keeps twice."""

    @staticmethod
    def forward(ctx, x, w1, b1, w2, b2, keep):
        rows = x.reshape(-1, x.shape[-1])
        w1, b1, w2, b2 = (tensor.to(x.dtype) for tensor in (w1, b1, w2, b2))
        hidden, out = [], []
        for part in _row_parts(rows, w1):
            h = product(rows[part], w1, b1)
            if keep:
                hidden.append(h)
            out.append(product(F.gelu(h) if keep else torch.ops.aten.gelu_(h), w2, b2))
        if keep:
            ctx.save_for_backward(x, w1, w2, *hidden)
        return joined(out).view(*x.shape[:-1], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_out):
        x, w1, w2, *hidden = ctx.saved_tensors
        rows, grad_rows = x.reshape(-1, x.shape[-1]), grad_out.reshape(-1, len(w2))
        need_x, *need_weights = ctx.needs_input_grad[:5]
        d_x, d_weights = [], [None] * 4
        with torch.autocast("cpu", enabled=False):
            ends = itertools.accumulate(len(h) for h in hidden)
            for h, end in zip(hidden, ends, strict=True):
                part = slice(end - len(h), end)
                d = grad_rows[part]
                d_h = product(d, w2.t())
                torch.ops.aten.gelu_backward.grad_input(d_h, h, grad_input=d_h)
                if any(need_weights):
                    shares = d_h.t() @ rows[part], d_h.sum(0), d.t() @ F.gelu(h), d.sum(0)
                    d_weights = [added(total, share) for total, share in zip(d_weights, shares, strict=True)]
                if need_x:
                    d_x.append(product(d_h, w1.t()))
        d_weights = [d if need else None for d, need in zip(d_weights, need_weights, strict=True)]
        return joined(d_x).view_as(x) if need_x else None, *d_weights, None


def _row_parts(rows: Tensor, w1: Tensor) -> list[slice]:
    # longer ones than of attention: every product packs the weights anew
    return parts(len(rows), len(w1) * rows.element_size() // 2)
