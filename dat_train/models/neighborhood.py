"""Neighborhood attention: block letter `N` (Hassani et al., CVPR 2023; spec: "Neighborhood attention")."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dat_train.errors import UserError


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
        self.qkv = nn.Linear(dim, 3 * dim)
        self.rpb = nn.Parameter(torch.empty(heads, 2 * kernel_size - 1, 2 * kernel_size - 1))
        nn.init.trunc_normal_(self.rpb, std=0.02)
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(proj_drop)

    def forward(self, x: Tensor) -> Tensor:
        H, W, k = x.shape[1], x.shape[2], self.kernel_size
        if k > H or k > W:
            x = F.pad(x, (0, 0, 0, max(k - W, 0), 0, max(k - H, 0)))
        x = self._attend(self.qkv(x))
        return self.proj_drop(self.proj(x[:, :H, :W].contiguous()))  # contiguous: see `WindowAttention`

    def _attend(self, qkv: Tensor) -> Tensor:
        """(B, H, W, 3C) -> (B, H, W, C), H, W >= k."""
        B, H, W, C3 = qkv.shape
        C, heads, k = C3 // 3, self.heads, self.kernel_size
        rows, columns = _neighbors(H, k, qkv), _neighbors(W, k, qkv)  # (H, k), (W, k)
        q = qkv[..., :C].reshape(B, H * W, heads, 1, C // heads)
        kv = qkv[..., C:][:, rows][:, :, :, columns]  # (B, H, k, W, k, 2C)
        kv = kv.permute(0, 1, 3, 2, 4, 5).reshape(B, H * W, k * k, 2, heads, C // heads)
        key, value = kv.permute(3, 0, 1, 4, 2, 5).unbind(0)  # (B, H*W, heads, k*k, C / heads)
        dy = (rows - torch.arange(H, device=rows.device)[:, None] + k - 1)[:, None, :, None]
        dx = (columns - torch.arange(W, device=rows.device)[:, None] + k - 1)[None, :, None, :]
        bias = self.rpb[:, dy, dx].permute(1, 2, 0, 3, 4).reshape(1, H * W, heads, 1, k * k)
        out = F.scaled_dot_product_attention(
            q, key, value, attn_mask=bias.to(q.dtype), dropout_p=self.attn_drop if self.training else 0.0
        )
        return out.reshape(B, H, W, C)


def _neighbors(size: int, k: int, like: Tensor) -> Tensor:
    """(size, k) positions of each query's neighbors along one axis."""
    first = (torch.arange(size, device=like.device) - k // 2).clamp(0, size - k)
    return first[:, None] + torch.arange(k, device=like.device)
