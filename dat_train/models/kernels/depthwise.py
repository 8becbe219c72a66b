"""Depthwise convolution whose gradient is quick on a CPU, in bfloat16 too."""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from dat_train.models.kernels.choice import implementation


def depthwise_conv2d(x: Tensor, weight: Tensor, bias: Tensor, stride: int, padding: int) -> Tensor:
    """One k x k kernel a channel. Shape: x (B, H, W, C), weight (C, 1, k, k), bias (C) -> (B, H', W', C)."""
    if not torch.jit.is_scripting():
        chosen = implementation(x)
        if chosen == "parts":
            dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
            with torch.autocast("cpu", enabled=False):
                return _DepthwiseConv.apply(x.to(dtype), weight.to(dtype), bias.to(dtype), stride, padding)
    return _conv(x, weight, bias, stride, padding)


def _conv(x: Tensor, weight: Tensor, bias: Tensor, stride: int, padding: int) -> Tensor:
    out = F.conv2d(x.permute(0, 3, 1, 2), weight, bias, stride=stride, padding=padding, groups=weight.shape[0])
    return out.permute(0, 2, 3, 1)


class _DepthwiseConv(torch.autograd.Function):
    """In bfloat16 oneDNN is quick at gradients of 3 x 3 kernels of stride 1 alone; at others 10 to 100 times slower."""

    @staticmethod
    def forward(x, weight, bias, stride, padding):
        return _conv(x, weight, bias, stride, padding)

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, weight, _, ctx.stride, ctx.padding = inputs
        ctx.save_for_backward(x, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        x, weight = ctx.saved_tensors
        need_x, need_weight, need_bias = ctx.needs_input_grad[:3]
        dtype, k, stride, padding = x.dtype, weight.shape[2], ctx.stride, ctx.padding
        # summed here: in one call with the others the bias takes half as long as the weights
        d_bias = grad.sum((0, 1, 2)) if need_bias else None
        if dtype == torch.bfloat16 and stride > 1:
            grad, x, weight = grad.float(), x.float(), weight.float()
        by_threes = dtype == torch.bfloat16 and stride == 1 and k > 3
        d_x, d_weight = _gradients(grad, x, weight, stride, padding, need_x, need_weight and not by_threes)
        if need_weight and by_threes:
            d_weight = _weight_gradient_by_threes(grad, x, k, padding)
        return (
            d_x if d_x is None else d_x.to(dtype),
            d_weight if d_weight is None else d_weight.to(dtype),
            d_bias,
            *2 * [None],
        )


def _weight_gradient_by_threes(grad: Tensor, x: Tensor, k: int, padding: int) -> Tensor:
    """Blocks of 3 x 3 weights have the gradient of a 3 x 3 kernel on a shifted map: (C, 1, k, k), stride 1."""
    _, H, W, C = grad.shape
    x = F.pad(x, (0, 0, padding, padding, padding, padding))
    d_weight, block = grad.new_empty(C, 1, k, k), grad.new_empty(C, 1, 3, 3)
    starts = sorted({min(start, k - 3) for start in range(0, k, 3)})  # the last one may overlap
    for row in starts:
        for column in starts:
            shifted = x[:, row : row + H + 2, column : column + W + 2].contiguous()
            into = d_weight[:, :, row : row + 3, column : column + 3]
            into.copy_(_gradients(grad, shifted, block, 1, 0, False, True)[1])
    return d_weight


def _gradients(
    grad: Tensor, x: Tensor, weight: Tensor, stride: int, padding: int, need_x: bool, need_weight: bool
) -> tuple[Tensor | None, Tensor | None]:
    d_x, d_weight, _ = torch.ops.aten.convolution_backward(
        grad.permute(0, 3, 1, 2),
        x.permute(0, 3, 1, 2),
        weight,
        None,
        [stride, stride],
        [padding, padding],
        [1, 1],
        False,
        [0, 0],
        weight.shape[0],
        [need_x, need_weight, False],
    )
    return None if d_x is None else d_x.permute(0, 2, 3, 1), d_weight
