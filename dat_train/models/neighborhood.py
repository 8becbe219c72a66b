"""Neighborhood attention: block letter `N` (docs/model.md, "Neighborhood attention").

Source: Hassani et al., Neighborhood Attention Transformer, CVPR 2023 (arXiv 2204.07143), as in DAT++.
"""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from dat_train.errors import UserError
from dat_train.models.legacy_names import accept_legacy_names

TILE = 7  # preferred side of a tile of queries; measured on a CPU (docs/family.md)
MAX_SINGLE_TILE = 14  # a map of up to this side is a single tile: dense attention with a mask


class NeighborhoodAttention(nn.Module):
    """Attention of every query to the k x k positions nearest to it, shifted inward at the borders.

    A map smaller than k is zero-padded right and below before the projection and cropped afterwards.

    Args:
        dim: channels C, a multiple of `num_heads`.
        num_heads: attention heads M.
        kernel_size: odd side k of a neighborhood, in positions.
        attn_drop: dropout probability of the attention weights.
        proj_drop: dropout probability of the output.

    Raises:
        UserError: kernel_size is even.

    Shape: (B, H, W, C) -> (B, H, W, C), any H, W >= 1.
    """

    @accept_legacy_names
    def __init__(
        self, dim: int, num_heads: int, kernel_size: int, attn_drop: float = 0.0, proj_drop: float = 0.0
    ) -> None:
        super().__init__()
        if kernel_size % 2 == 0:
            raise UserError(f"kernel_size={kernel_size} of neighborhood attention must be odd")
        self.num_heads = num_heads
        self.kernel_size = kernel_size
        self.attn_drop = attn_drop
        self.qkv = nn.Linear(dim, 3 * dim)
        self.rpb = nn.Parameter(torch.empty(num_heads, 2 * kernel_size - 1, 2 * kernel_size - 1))
        nn.init.trunc_normal_(self.rpb, std=0.02)
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(proj_drop)

    def forward(self, x: Tensor) -> Tensor:
        H, W = x.shape[1], x.shape[2]
        x = pad_to_kernel(x, self.kernel_size)
        qkv = rearrange(self.qkv(x), "b h w (qkv m d) -> b h w qkv m d", qkv=3, m=self.num_heads)
        x = rearrange(self.attend(qkv), "b h w m d -> b h w (m d)")
        return self.proj_drop(self.proj(x[:, :H, :W]))

    def attend(self, qkv: Tensor) -> Tensor:
        """Attention of queries to keys and values: (B, H, W, 3, M, C / M) -> (B, H, W, M, C / M)."""
        return tiled_attention(qkv, self.rpb, self.kernel_size, self.attn_drop if self.training else 0.0)


torch.fx.wrap("rearrange")


@torch.fx.wrap
def pad_to_kernel(x: Tensor, k: int) -> Tensor:
    """Zero-pad a map (B, H, W, C) right and below to sides of at least k."""
    H, W = x.shape[1:3]
    return F.pad(x, (0, 0, 0, max(k - W, 0), 0, max(k - H, 0))) if min(H, W) < k else x


@torch.fx.wrap
def tiled_attention(qkv: Tensor, rpb: Tensor, kernel_size: int, dropout: float = 0.0) -> Tensor:
    """Neighborhood attention as dense attention of tiles.

    The queries of a tile share the window of keys around it; keys outside a query's neighborhood are masked. No copy
    of the k*k keys of each query is made.

    Args:
        qkv: (B, H, W, 3, M, C / M), H and W at least k.
        rpb: (M, 2k-1, 2k-1), bias by key minus query position plus k - 1.
        kernel_size: odd k.
        dropout: dropout probability of the attention weights.

    Returns:
        (B, H, W, M, C / M).
    """
    H, W, M = qkv.shape[1], qkv.shape[2], qkv.shape[4]
    ty, tx = tile_side(H), tile_side(W)
    ny, nx = -(-H // ty), -(-W // tx)
    rows, bias_rows = key_windows(H, ty, kernel_size, qkv.device)
    columns, bias_columns = key_windows(W, tx, kernel_size, qkv.device)
    q = F.pad(qkv[:, :, :, 0], (0, 0, 0, 0, 0, nx * tx - W, 0, ny * ty - H))
    q = rearrange(q, "b (ny ty) (nx tx) m d -> b (ny nx m) (ty tx) d", ny=ny, nx=nx)
    kv = qkv[:, :, :, 1:]
    if ny > 1 or nx > 1:
        kv = kv.index_select(1, rows).index_select(2, columns)
    k, v = rearrange(kv, "b (ny wy) (nx wx) kv m d -> kv b (ny nx m) (wy wx) d", ny=ny, nx=nx)
    bias = tile_bias(rpb, bias_rows, bias_columns).to(q.dtype)
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=dropout)
    out = rearrange(out, "b (ny nx m) (ty tx) d -> b (ny ty) (nx tx) m d", ny=ny, nx=nx, m=M, ty=ty)
    return out[:, :H, :W]


def tile_side(size: int) -> int:
    """Queries along a side of a tile on a map of `size`: about TILE, in tiles as even as possible."""
    return size if size <= MAX_SINGLE_TILE else -(-size // -(-size // TILE))


def key_windows(size: int, tile: int, k: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Keys of each tile along one axis.

    Returns:
        positions of the keys, (tiles * w,); and a mask (tiles, tile, w, 2k-1) that selects the bias entry of a query
        and a key. The mask is all False if the key is not a neighbor of the query. Queries beyond the map are treated
        as copies of the last one.
    """
    tiles = -(-size // tile)
    w = min(tile + k - 1, size)
    query = torch.arange(tiles * tile, device=device).clamp(max=size - 1).view(tiles, tile)
    first = (query - k // 2).clamp(0, size - k)  # first neighbor of each query
    key = first[:, :1].clamp(max=size - w) + torch.arange(w, device=device)  # (tiles, w)
    neighbor = (key[:, None] >= first[..., None]) & (key[:, None] < first[..., None] + k)  # (tiles, tile, w)
    relative = key[:, None] - query[..., None] + k - 1
    entry = torch.arange(2 * k - 1, device=device)
    return key.flatten(), (relative[..., None] == entry) & neighbor[..., None]


def tile_bias(rpb: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Bias of the keys of every tile, -inf for keys that are not neighbors.

    Computed as a product with one-hot rows and columns: the gradient of a product has a fixed order of summation, the
    gradient of indexing does not.

    Args:
        rpb: (M, 2k-1, 2k-1).
        rows, columns: masks of `key_windows` along both axes.

    Returns:
        (1, ny * nx * M, ty * tx, wy * wx).
    """
    (ny, ty, _, size), (nx, tx, _, _) = rows.shape, columns.shape
    bias = rows.view(-1, size).to(rpb.dtype) @ rpb @ columns.view(-1, size).to(rpb.dtype).T
    neighbor = rows.any(-1).view(-1, 1) & columns.any(-1).view(1, -1)
    bias = bias.masked_fill(~neighbor, float("-inf"))
    sizes = {"ny": ny, "ty": ty, "nx": nx, "tx": tx}
    return rearrange(bias, "m (ny ty wy) (nx tx wx) -> 1 (ny nx m) (ty tx) (wy wx)", **sizes)
