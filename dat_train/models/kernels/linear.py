"""Linear layers: on a CPU by oneDNN, whose products are a tenth faster in float32 than what `F.linear` calls."""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from dat_train.models.kernels.choice import implementation

SMALL = 1 << 22  # multiply-accumulates below which calling a function of ours costs more than it saves


def linear(x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
    """x w^T + b. Shape: x (..., C), w (C', C), b (C') -> (..., C')."""
    if not torch.jit.is_scripting():
        chosen = implementation(x)
        if chosen == "parts" and x.numel() * w.shape[0] >= SMALL:
            dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
            if onednn_multiplies(dtype):
                with torch.autocast("cpu", enabled=False):
                    return _Linear.apply(x.to(dtype), w.to(dtype), None if b is None else b.to(dtype))
    return F.linear(x, w, b)


def onednn_multiplies(dtype: torch.dtype) -> bool:
    """Whether oneDNN has a product for this format, in this build of PyTorch and on this processor."""
    if not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())


def product(x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
    """x w^T + b without a gradient, by the operator that compiled models call. Shape: (n, C), (C', C) -> (n, C')."""
    if onednn_multiplies(x.dtype):
        return torch.ops.mkldnn._linear_pointwise(x, w, b, "none", [], "")
    return F.linear(x, w, b)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(x, w, b):
        return product(x.reshape(-1, x.shape[-1]), w, b).view(*x.shape[:-1], -1)

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, w, _ = inputs
        ctx.save_for_backward(x, w)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_out):
        x, w = ctx.saved_tensors
        need_x, need_w, need_b = ctx.needs_input_grad
        rows, grad = x.reshape(-1, x.shape[-1]), grad_out.reshape(-1, len(w))
        with torch.autocast("cpu", enabled=False):
            return (
                product(grad, w.t()).view_as(x) if need_x else None,
                grad.t() @ rows if need_w else None,
                grad.sum(0) if need_b else None,
            )
