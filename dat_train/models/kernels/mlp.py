"""Linear, GELU, Linear."""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from dat_train.models.kernels.choice import implementation
from dat_train.models.kernels.parts import parts, wants_gradient


def mlp(x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> Tensor:
    """GELU(x w1^T + b1) w2^T + b2. Shape: (..., C) -> (..., C')."""
    if not torch.jit.is_scripting():
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
        keep = wants_gradient(x, w1, b1, w2, b2)
        # with products as quick as in bfloat16, computing the GELU again takes more than fresh memory does
        if implementation(x) == "parts" and not (keep and dtype == torch.bfloat16):
            with torch.autocast("cpu", enabled=False):
                return _Mlp.apply(x.to(dtype), w1, b1, w2, b2, keep)[0]
    return F.linear(F.gelu(F.linear(x, w1, b1)), w2, b2)


class _Mlp(torch.autograd.Function):
    """In parts of rows. Keeps the hidden layer before the GELU alone, which the plain formulation keeps twice."""

    @staticmethod
    def forward(x, w1, b1, w2, b2, keep):
        rows = x.reshape(-1, x.shape[-1])
        w1, b1, w2, b2 = (tensor.to(x.dtype) for tensor in (w1, b1, w2, b2))
        out = rows.new_empty(len(rows), len(w2))
        hidden = rows.new_empty(len(rows) if keep else 0, len(w1))
        for part in _row_parts(rows, w1):
            h = torch.addmm(b1, rows[part], w1.t(), out=hidden[part]) if keep else torch.addmm(b1, rows[part], w1.t())
            torch.addmm(b2, F.gelu(h), w2.t(), out=out[part])
        return out.view(*x.shape[:-1], -1), hidden

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, w1, b1, w2, b2, _ = inputs
        ctx.save_for_backward(x, w1, b1, w2, b2, output[1])
        ctx.mark_non_differentiable(output[1])

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_out, _):
        x, w1, b1, w2, b2, hidden = ctx.saved_tensors
        rows, d_out = x.reshape(-1, x.shape[-1]), grad_out.reshape(-1, len(w2))
        need_x, *need_weights = ctx.needs_input_grad[:5]
        weights = [w1.to(x.dtype), w2.to(x.dtype)]
        d_x = torch.empty_like(rows) if need_x else None
        # sums over rows, in the weights' own format: a part's share is rounded to bfloat16, their sum is not
        d_w1, d_b1, d_w2, d_b2 = (torch.zeros_like(tensor) for tensor in (w1, b1, w2, b2))
        with torch.autocast("cpu", enabled=False):
            for part in _row_parts(rows, w1):
                h, d = hidden[part], d_out[part]
                d_h = torch.ops.aten.gelu_backward(d @ weights[1], h)
                if any(need_weights):
                    _add_product(d_w2, d, F.gelu(h))
                    _add_product(d_w1, d_h, rows[part])
                    d_b2 += d.sum(0)
                    d_b1 += d_h.sum(0)
                if need_x:
                    torch.mm(d_h, weights[0], out=d_x[part])
        d_weights = [d if need else None for d, need in zip((d_w1, d_b1, d_w2, d_b2), need_weights, strict=True)]
        return d_x.view_as(x) if need_x else None, *d_weights, None


def _row_parts(rows: Tensor, w1: Tensor) -> list[slice]:
    # longer ones than of attention: every product packs the weights anew
    return parts(len(rows), len(w1) * rows.element_size() // 4)


def _add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    """total += a^T b"""
    if total.dtype == a.dtype:
        total.addmm_(a.t(), b)
    else:
        total += a.t() @ b
