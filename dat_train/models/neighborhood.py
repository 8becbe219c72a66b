"""Neighborhood attention: block letter `N` (Hassani et al., CVPR 2023; spec: "Neighborhood attention")."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dat_train.errors import UserError
from dat_train.models.blocks import Linear
from dat_train.models.neighborhood_attention import neighborhood_attention


class NeighborhoodAttention(nn.Module):
    """Every query attends to the k x k positions nearest to it, shifted inward at the borders.

    A map smaller than k is zero-padded right and below before the projection and cropped after.

    Args:
        dim: channels C, a multiple of `heads`.
        heads: attention heads.
        kernel_size: odd side k of a neighborhood, in positions.

    Shape: (B, H, W, C) -> (B, H, W, C), any H, W >= 1.
    """

    def __init__(self, dim: int, heads: int, kernel_size: int, attn_drop: float = 0.0, proj_drop: float = 0.0) -> None:
        super().__init__()
        if kernel_size % 2 == 0:
            raise UserError(f"kernel_size={kernel_size} of neighborhood attention must be odd")
        self.heads = heads
        self.kernel_size = kernel_size
        self.attn_drop = attn_drop
        self.qkv = Linear(dim, 3 * dim)
        self.rpb = nn.Parameter(torch.empty(heads, 2 * kernel_size - 1, 2 * kernel_size - 1))
        nn.init.trunc_normal_(self.rpb, std=0.02)
        self.proj = Linear(dim, dim)
        self.proj_drop = nn.Dropout(proj_drop)

    def forward(self, x: Tensor) -> Tensor:
        B, H, W, C = x.shape
        k = self.kernel_size
        if k > H or k > W:
            x = F.pad(x, (0, 0, 0, max(k - W, 0), 0, max(k - H, 0)))
        qkv = self.qkv(x).view(B, x.shape[1], x.shape[2], 3, self.heads, C // self.heads)
        x = neighborhood_attention(qkv, self.rpb, k, self.attn_drop if self.training else 0.0)
        return self.proj_drop(self.proj(x[:, :H, :W].reshape(B, H, W, C)))
