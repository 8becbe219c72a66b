"""MLP in chunks of rows."""

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from dat_train.models.blocks import Mlp
from dat_train.models.kernels.cpu.chunks import accumulate, autocast_dtype, cat, chunks, needs_gradient
from dat_train.models.kernels.cpu.linear import linear


class CPUMlp(Mlp):
    """Mlp that keeps one hidden layer, before the GELU, for the backward pass; the plain Mlp keeps two."""

    def forward(self, x: Tensor) -> Tensor:
        if self.dwconv is not None or (self.drop.training and self.drop.p > 0):
            return super().forward(x)
        weights = self.fc1.weight, self.fc1.bias, self.fc2.weight, self.fc2.bias
        dtype = autocast_dtype(x)
        with torch.autocast("cpu", enabled=False):
            return _Mlp.apply(x.to(dtype), *weights, needs_gradient(x, *weights))


class _Mlp(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, w1, b1, w2, b2, keep):
        rows = x.reshape(-1, x.shape[-1])
        w1, b1, w2, b2 = (tensor.to(x.dtype) for tensor in (w1, b1, w2, b2))
        hidden, out = [], []
        for chunk in _row_chunks(rows, w1):
            h = linear(rows[chunk], w1, b1)
            if keep:
                hidden.append(h)
            out.append(linear(F.gelu(h) if keep else torch.ops.aten.gelu_(h), w2, b2))
        if keep:
            ctx.save_for_backward(x, w1, w2, *hidden)
        return cat(out).view(*x.shape[:-1], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx, d_out):
        x, w1, w2, *hidden = ctx.saved_tensors
        rows, d_rows = x.reshape(-1, x.shape[-1]), d_out.reshape(-1, len(w2))
        need_x, *need_weights = ctx.needs_input_grad[:5]
        d_x, d_weights = [], [None] * 4
        with torch.autocast("cpu", enabled=False):
            ends = itertools.accumulate(len(h) for h in hidden)
            for h, end in zip(hidden, ends, strict=True):
                chunk = slice(end - len(h), end)
                d = d_rows[chunk]
                d_h = linear(d, w2.t())
                torch.ops.aten.gelu_backward.grad_input(d_h, h, grad_input=d_h)
                if any(need_weights):
                    shares = d_h.t() @ rows[chunk], d_h.sum(0), d.t() @ F.gelu(h), d.sum(0)
                    d_weights = [accumulate(*pair) for pair in zip(d_weights, shares, strict=True)]
                if need_x:
                    d_x.append(linear(d_h, w1.t()))
        d_weights = [d if need else None for d, need in zip(d_weights, need_weights, strict=True)]
        return cat(d_x).view_as(x) if need_x else None, *d_weights, None


def _row_chunks(rows: Tensor, w1: Tensor) -> list[slice]:
    # longer chunks than for attention, because every product packs the weights again
    return chunks(len(rows), len(w1) * rows.element_size() // 2)
