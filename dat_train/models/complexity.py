"""Multiply-accumulates of a model, counted as the papers' tool (fvcore) counts them."""

import copy

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def count_macs(model: nn.Module, img_size: int | tuple[int, int], in_chans: int = 3) -> int:
    """Multiply-accumulates of one image's forward pass; the papers call them FLOPs.

    Convolutions and matrix products count one per multiplication; as in fvcore, a layer norm counts 5 and a bilinear
    sample 4 per element. Counted on the meta device with the plain formulation of attention, so that the number is the
    architecture's and not the implementation's; takes no memory and well under a second.

    Args:
        img_size: side, or (height, width), in pixels.
    """
    height, width = (img_size, img_size) if isinstance(img_size, int) else img_size
    model = copy.deepcopy(model).to("meta").eval().requires_grad_(False)
    dtype = next(model.parameters()).dtype
    counter = FlopCounterMode(
        display=False,
        custom_mapping={  # the counter counts 2 for a multiply-accumulate
            torch.ops.aten.native_layer_norm: lambda x, *_, **__: 2 * 5 * _elements(x),
            torch.ops.aten.grid_sampler_2d: lambda x, grid, *_, **__: 2 * 4 * x[0] * x[1] * grid[1] * grid[2],
        },
    )
    with torch.no_grad(), counter:
        model(torch.empty(1, in_chans, height, width, device="meta", dtype=dtype))
    return counter.get_total_flops() // 2


def count_parameters(model: nn.Module) -> int:
    """Number of parameters, frozen ones included."""
    return sum(parameter.numel() for parameter in model.parameters())


def _elements(shape: torch.Size) -> int:
    return torch.Size(shape).numel()
