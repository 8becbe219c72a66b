"""Neighborhood attention as a function of queries, keys, values and bias: three formulations of the same numbers.

gathered   every query's own k*k keys, copied: as the definition reads, and what MACs are counted on
tiled      the queries of a tile share the window of keys around it, masked to each one's own: dense products alone
flex       torch's flex_attention, which skips what no query of a block attends to: for CUDA
"""

import functools
import importlib.util

import torch
import torch.nn.functional as F
from torch import Tensor

from dat_train.models.kernels.flex import flex_attention

TILE = 7  # queries a side that share a window of keys, about; measured on a CPU (docs/family.md)
ONE_TILE = 14  # a map of up to this side is one tile: dense attention with a mask


def neighborhood_attention(qkv: Tensor, rpb: Tensor, kernel_size: int, dropout: float = 0.0) -> Tensor:
    """Every query attends to the k x k positions nearest to it, shifted inward at the borders.

    Args:
        qkv: (B, H, W, 3, heads, C / heads), H and W at least k.
        rpb: (heads, 2k-1, 2k-1), the bias by key minus query position plus k - 1.
        kernel_size: odd k.
        dropout: probability, of attention weights.

    Returns:
        (B, H, W, heads, C / heads).
    """
    if qkv.is_meta:
        return gathered(qkv, rpb, kernel_size, dropout)
    if not torch.jit.is_scripting():  # noqa: SIM102  alone, so that the compiler of scripts leaves out what is inside
        if _flex_serves(qkv, dropout):
            return flex(qkv, rpb, kernel_size)
    return tiled(qkv, rpb, kernel_size, dropout)


def gathered(qkv: Tensor, rpb: Tensor, kernel_size: int, dropout: float = 0.0) -> Tensor:
    """The plain formulation; its copies of keys and values are k*k times their size."""
    B, H, W, _, heads, d = qkv.shape
    k = kernel_size
    rows, columns = _neighbors(H, k, qkv.device), _neighbors(W, k, qkv.device)  # (H, k), (W, k)
    q = qkv[:, :, :, 0].reshape(B, H * W, heads, 1, d)
    kv = qkv[:, :, :, 1:][:, rows][:, :, :, columns]  # (B, H, k, W, k, 2, heads, d)
    kv = kv.permute(5, 0, 1, 3, 6, 2, 4, 7).reshape(2, B, H * W, heads, k * k, d)
    dy = (rows - torch.arange(H, device=rows.device)[:, None] + k - 1)[:, None, :, None]
    dx = (columns - torch.arange(W, device=rows.device)[:, None] + k - 1)[None, :, None, :]
    bias = rpb[:, dy, dx].permute(1, 2, 0, 3, 4).reshape(1, H * W, heads, 1, k * k)
    out = F.scaled_dot_product_attention(q, kv[0], kv[1], attn_mask=bias.to(q.dtype), dropout_p=dropout)
    return out.reshape(B, H, W, heads, d)


def tiled(qkv: Tensor, rpb: Tensor, kernel_size: int, dropout: float = 0.0) -> Tensor:
    """Dense attention of each tile's queries to the window of keys around it; -inf beyond a query's neighborhood."""
    B, H, W, _, heads, d = qkv.shape
    ty, tx = _tile(H), _tile(W)
    ny, nx = -(-H // ty), -(-W // tx)
    rows, wy, by = _windows(H, ty, kernel_size, qkv.device)  # key rows (ny * wy,), bias rows (ny, ty, wy, 2k-1)
    columns, wx, bx = _windows(W, tx, kernel_size, qkv.device)
    q = F.pad(qkv[:, :, :, 0], (0, 0, 0, 0, 0, nx * tx - W, 0, ny * ty - H))
    q = q.view(B, ny, ty, nx, tx, heads, d).permute(0, 1, 3, 5, 2, 4, 6).reshape(B, ny * nx * heads, ty * tx, d)
    kv = qkv[:, :, :, 1:]
    if ny > 1 or nx > 1:
        kv = kv.index_select(1, rows).index_select(2, columns)
    kv = kv.reshape(B, ny, wy, nx, wx, 2, heads, d).permute(5, 0, 1, 3, 6, 2, 4, 7)
    k, v = kv.reshape(2, B, ny * nx * heads, wy * wx, d).unbind(0)
    bias = _tile_bias(rpb, by, bx).to(q.dtype)
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=dropout)
    out = out.view(B, ny, nx, heads, ty, tx, d).permute(0, 1, 4, 2, 5, 3, 6).reshape(B, ny * ty, nx * tx, heads, d)
    return out[:, :H, :W]


def _tile(size: int, tile: int = TILE, one_tile: int = ONE_TILE) -> int:
    """Queries a side of a tile, on a map of `size`: as even tiles as can be."""
    return size if size <= one_tile else -(-size // -(-size // tile))


def _windows(size: int, tile: int, k: int, device: torch.device) -> tuple[Tensor, int, Tensor]:
    """Along one axis: positions of each tile's keys (tiles * w,), w, and one_hot (tiles, tile, w, 2k-1).

    one_hot picks the entry of the bias for a query and a key of the window; it is all zeros where the key is none of
    the query's neighbors. Queries beyond the map are copies of the last one.
    """
    tiles = -(-size // tile)
    w = min(tile + k - 1, size)
    query = torch.arange(tiles * tile, device=device).clamp(max=size - 1).view(tiles, tile)
    first = (query - k // 2).clamp(0, size - k)  # of each query's neighbors
    start = first[:, 0].clamp(max=size - w)
    key = start[:, None] + torch.arange(w, device=device)  # (tiles, w)
    neighbor = (key[:, None] >= first[..., None]) & (key[:, None] < first[..., None] + k)  # (tiles, tile, w)
    relative = key[:, None] - query[..., None] + k - 1
    one_hot = (relative[..., None] == torch.arange(2 * k - 1, device=device)) & neighbor[..., None]
    return key.flatten(), w, one_hot


def _tile_bias(rpb: Tensor, by: Tensor, bx: Tensor) -> Tensor:
    """(1, ny * nx * heads, ty * tx, wy * wx): the bias of neighbors, -inf of others.

    By products with one-hot rows, whose gradient is a product as well: a gather's would be added up entry by entry.
    """
    heads, size = rpb.shape[0], rpb.shape[1]
    ny, ty, wy, _ = by.shape
    nx, tx, wx, _ = bx.shape
    bias = by.view(-1, size).to(rpb.dtype) @ rpb @ bx.view(-1, size).to(rpb.dtype).T  # (heads, ny*ty*wy, nx*tx*wx)
    neighbor = by.any(-1).view(-1, 1) & bx.any(-1).view(1, -1)
    bias = bias.masked_fill(~neighbor, float("-inf"))
    bias = bias.view(heads, ny, ty, wy, nx, tx, wx).permute(1, 4, 0, 2, 5, 3, 6)
    return bias.reshape(1, ny * nx * heads, ty * tx, wy * wx)


def _flex_serves(qkv: Tensor, dropout: float) -> bool:
    """Whether to take flex_attention: on CUDA, on maps of several blocks, with nobody reading along.

    It has no dropout; the bias' gradient is added up in no fixed order; compilers, exporters and the estimate of memory
    (whose tensors are of another type) want ordinary operators.
    """
    return (
        qkv.is_cuda
        and type(qkv) is Tensor
        and dropout == 0
        and qkv.shape[1] * qkv.shape[2] > ONE_TILE**2
        and not (
            torch.compiler.is_compiling() or torch.jit.is_tracing() or torch.are_deterministic_algorithms_enabled()
        )
        and importlib.util.find_spec("triton") is not None
    )


def flex(qkv: Tensor, rpb: Tensor, kernel_size: int) -> Tensor:
    """By torch's flex_attention: the neighborhood as a block mask, the bias as a change of the score."""
    B, H, W, _, heads, d = qkv.shape
    k = kernel_size
    q, key, v = qkv.permute(3, 0, 4, 1, 2, 5).reshape(3, B, heads, H * W, d).unbind(0)

    def with_bias(score: Tensor, b: Tensor, h: Tensor, query: Tensor, key: Tensor) -> Tensor:
        # keys that are no neighbors are masked; clamped, so that they read inside the table
        dy = (key // W - query // W + k - 1).clamp(0, 2 * k - 2)
        dx = (key % W - query % W + k - 1).clamp(0, 2 * k - 2)
        return score + rpb[h, dy, dx].to(score.dtype)

    block_mask = _block_mask(H, W, k, str(qkv.device))
    out = flex_attention(qkv.device)(q, key, v, score_mod=with_bias, block_mask=block_mask)
    return out.view(B, heads, H, W, d).permute(0, 2, 3, 1, 4)


@functools.lru_cache(maxsize=64)
def _block_mask(H: int, W: int, k: int, device: str):
    """Which blocks of queries and keys of a map hold neighbors; the same for all layers and steps."""
    from torch.nn.attention.flex_attention import create_block_mask

    def is_neighbor(b: Tensor, h: Tensor, query: Tensor, key: Tensor) -> Tensor:
        y = key // W - (query // W - k // 2).clamp(0, H - k)
        x = key % W - (query % W - k // 2).clamp(0, W - k)
        return (y >= 0) & (y < k) & (x >= 0) & (x < k)

    with torch.inference_mode(False):  # a mask made while evaluating serves in training too, which may save it
        return create_block_mask(is_neighbor, None, None, H * W, H * W, device=device)


def _neighbors(size: int, k: int, device: torch.device) -> Tensor:
    """(size, k) positions of each query's neighbors along one axis."""
    first = (torch.arange(size, device=device) - k // 2).clamp(0, size - k)
    return first[:, None] + torch.arange(k, device=device)
