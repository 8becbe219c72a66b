"""Multiply-accumulates and parameters of a model, counted as by fvcore, the papers' tool."""

import copy

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from dat_train.models.neighborhood import NeighborhoodAttention


def count_macs(model: nn.Module, img_size: int | tuple[int, int], in_chans: int = 3) -> int:
    """Multiply-accumulates of the forward pass of one image, which the papers call FLOPs.

    Convolutions and matrix products count one per multiplication; as in fvcore, layer norm counts 5 and bilinear
    sampling 4 per element. Neighborhood attention is counted by its definition, k*k keys per query. Counted on the meta
    device: in well under a second, without memory. Count before `accelerate` (models/kernels/).

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
    """Neighborhood attention with a copy of the k*k keys of every query: to count, and to compare with in tests."""

    def attend(self, qkv: Tensor) -> Tensor:
        return gathered_attention(qkv, self.rpb, self.kernel_size)


def gathered_attention(qkv: Tensor, rpb: Tensor, kernel_size: int) -> Tensor:
    """Neighborhood attention by its definition (docs/model.md, "Neighborhood attention").

    Args:
        qkv: (B, H, W, 3, M, C / M), H and W at least k.
        rpb: (M, 2k-1, 2k-1), bias by key minus query position plus k - 1.
        kernel_size: odd k.

    Returns:
        (B, H, W, M, C / M).
    """
    _, H, W, _, M, _ = qkv.shape
    k = kernel_size
    rows, columns = _neighbors(H, k, qkv.device), _neighbors(W, k, qkv.device)  # (H, k), (W, k)
    q = rearrange(qkv[:, :, :, 0], "b h w m d -> b (h w) m 1 d")
    kv = qkv[:, :, :, 1:][:, rows][:, :, :, columns]
    key, value = rearrange(kv, "b h i w j kv m d -> kv b (h w) m (i j) d")
    dy = rows - torch.arange(H, device=rows.device)[:, None] + k - 1
    dx = columns - torch.arange(W, device=rows.device)[:, None] + k - 1
    bias = rearrange(rpb[:, dy[:, None, :, None], dx[None, :, None, :]], "m h w i j -> 1 (h w) m 1 (i j)")
    out = F.scaled_dot_product_attention(q, key, value, attn_mask=bias.to(q.dtype))
    return rearrange(out, "b (h w) m 1 d -> b h w m d", h=H, m=M)


def _neighbors(size: int, k: int, device: torch.device) -> Tensor:
    """(size, k) positions of each query's neighbors along one axis."""
    first = (torch.arange(size, device=device) - k // 2).clamp(0, size - k)
    return first[:, None] + torch.arange(k, device=device)
