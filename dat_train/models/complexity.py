"""Multiply-accumulates and parameters of a model, counted as by fvcore, the papers' tool."""

import copy

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from dat_train.models.neighborhood import NeighborhoodAttention


def count_macs(model: nn.Module, img_size: int | tuple[int, int], in_chans: int = 3) -> int:
    """Multiply-accumulates of the forward pass of one image, which the papers call FLOPs.

    Convolutions and matrix products count one per multiplication; as in fvcore, layer norm counts 5 and bilinear
    sampling 4 per element. Neighborhood attention is counted by its definition, k*k keys per query. The model runs on
    the meta device, without memory and in less than a second. Count before `accelerate` (models/kernels/).

    Args:
        model: a model of timm.
        img_size: side, or (height, width), in pixels.
        in_chans: channels of the image.
    """
    height, width = (img_size, img_size) if isinstance(img_size, int) else img_size
    model = copy.deepcopy(model).to("meta").eval().requires_grad_(False)
    for module in model.modules():
        if isinstance(module, NeighborhoodAttention):
            module.__class__ = NeighborhoodAttentionByDefinition
    dtype = next(model.parameters()).dtype
    counter = FlopCounterMode(
        display=False,
        custom_mapping={  # the counter counts 2 for a multiply-accumulate
            torch.ops.aten.native_layer_norm: lambda x, *_, **__: 2 * 5 * torch.Size(x).numel(),
            torch.ops.aten.grid_sampler_2d: lambda x, grid, *_, **__: 2 * 4 * x[0] * x[1] * grid[1] * grid[2],
        },
    )
    with torch.no_grad(), counter:
        model(torch.empty(1, in_chans, height, width, device="meta", dtype=dtype))
    return counter.get_total_flops() // 2


def count_parameters(model: nn.Module) -> int:
    """Number of parameters, frozen ones included."""
    return sum(parameter.numel() for parameter in model.parameters())


class NeighborhoodAttentionByDefinition(NeighborhoodAttention):
    """Neighborhood attention for counting: matrix products with k*k keys for every query, no values."""

    def attend(self, qkv: Tensor) -> Tensor:
        B, H, W, _, M, d = qkv.shape
        keys = qkv.new_empty(B, H * W, M, d, self.kernel_size**2)
        out = qkv[:, :, :, 0].reshape(B, H * W, M, 1, d) @ keys @ keys.mT
        return out.view(B, H, W, M, d)
