"""Depthwise convolution of the offset network (docs/model.md, step 2) with a fast gradient in bfloat16.

In bfloat16, oneDNN computes only the gradients of 3 x 3 kernels of stride 1 fast; others take 10 to 100 times as long.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from dat_train.models.deformable import SamplingPositions
from dat_train.models.kernels.cpu.chunks import autocast_dtype


class CPUSamplingPositions(SamplingPositions):
    """SamplingPositions whose convolution has a fast gradient."""

    def convolve(self, queries: Tensor) -> Tensor:
        conv, dtype = self.conv, autocast_dtype(queries)
        weight, bias = conv.weight.repeat(self.groups, 1, 1, 1), conv.bias.repeat(self.groups)
        with torch.autocast("cpu", enabled=False):
            tensors = queries.to(dtype), weight.to(dtype), bias.to(dtype)
            return _DepthwiseConv.apply(*tensors, conv.stride[0], conv.padding[0])


class _DepthwiseConv(torch.autograd.Function):
    """k x k kernel per channel. Shape: x (B, H, W, C), weight (C, 1, k, k), bias (C) -> (B, H', W', C)."""

    @staticmethod
    def forward(x, weight, bias, stride, padding):
        out = F.conv2d(x.permute(0, 3, 1, 2), weight, bias, stride=stride, padding=padding, groups=len(weight))
        return out.permute(0, 2, 3, 1)

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, weight, _, ctx.stride, ctx.padding = inputs
        ctx.save_for_backward(x, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx, d_out):
        x, weight = ctx.saved_tensors
        need_x, need_weight, need_bias = ctx.needs_input_grad[:3]
        dtype, k, stride, padding = x.dtype, weight.shape[2], ctx.stride, ctx.padding
        # A separate sum takes less time: together with the other gradients, the bias takes half as long as the weights.
        d_bias = d_out.sum((0, 1, 2)) if need_bias else None
        if dtype == torch.bfloat16 and stride > 1:
            d_out, x, weight = d_out.float(), x.float(), weight.float()
        in_blocks = dtype == torch.bfloat16 and stride == 1 and k > 3
        need = [need_x, need_weight and not in_blocks, False]
        d_x, d_weight = _gradients(d_out, x, weight, need, stride=stride, padding=padding)
        if need_weight and in_blocks:
            d_weight = _weight_gradient_in_blocks(d_out, x, k, padding)
        return (
            d_x if d_x is None else d_x.to(dtype),
            d_weight if d_weight is None else d_weight.to(dtype),
            d_bias,
            *2 * [None],
        )


def _weight_gradient_in_blocks(d_out: Tensor, x: Tensor, k: int, padding: int) -> Tensor:
    """(C, 1, k, k) for stride 1: a block of 3 x 3 weights has the gradient of a 3 x 3 kernel on a shifted map."""
    _, H, W, C = d_out.shape
    x = F.pad(x, (0, 0, padding, padding, padding, padding))
    d_weight, block = d_out.new_empty(C, 1, k, k), d_out.new_empty(C, 1, 3, 3)
    starts = sorted({min(start, k - 3) for start in range(0, k, 3)})  # the last block may overlap
    for row in starts:
        for column in starts:
            shifted = x[:, row : row + H + 2, column : column + W + 2].contiguous()
            into = d_weight[:, :, row : row + 3, column : column + 3]
            into.copy_(_gradients(d_out, shifted, block, [False, True, False])[1])
    return d_weight


def _gradients(d_out: Tensor, x: Tensor, weight: Tensor, need: list[bool], *, stride=1, padding=0) -> tuple:
    """Gradients of x and weight; None if not needed."""
    d_x, d_weight, _ = torch.ops.aten.convolution_backward(
        d_out.permute(0, 3, 1, 2), x.permute(0, 3, 1, 2), weight, None, [stride, stride], [padding, padding], [1, 1],
        False, [0, 0], len(weight), need,
    )  # fmt: skip
    return None if d_x is None else d_x.permute(0, 2, 3, 1), d_weight
