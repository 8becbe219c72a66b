"""Attention to sampled keys, its bias sampled from a table for every (query, key, head)."""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from dat_train.models.geometry import displacements, query_points
from dat_train.models.kernels.choice import implementation, must_be_deterministic
from dat_train.models.kernels.flex import flex_deformable_attention
from dat_train.models.kernels.parts import joined, parts, wants_gradient
from dat_train.models.kernels.sampling import grid_sample


def deformable_attention(
    q: Tensor, kv: Tensor, positions: Tensor, table: Tensor, geometry: str, dropout: float = 0.0
) -> Tensor:
    """softmax(q k^T / sqrt(d) + bias) v; the bias of query i and key j is `table` at (query point i - p_j) / 2.

    Args:
        q: (B, H, W, C) queries.
        kv: (B, keys, 2C) keys, then values.
        positions: (B, groups, Hk, Wk, 2) of the keys as (y, x), at least float32.
        table: (heads, h, w), sampled bilinearly: -1 and 1 the centres of its border cells, zeros outside.
        geometry: of the query points, "cvpr" or "dat++".
        dropout: probability that a weight of the attention is dropped.

    Shape: -> (B, H, W, C).
    """
    if not torch.jit.is_scripting():
        chosen = implementation(q)
        if chosen == "parts" and dropout == 0:
            with torch.autocast("cpu", enabled=False):
                keep = wants_gradient(q, kv, positions, table)
                return _DeformableAttention.apply(q, kv.to(q.dtype), positions, table, geometry, keep)
        if chosen == "triton" and dropout == 0:
            return _by_triton(q, kv, positions, table, geometry)
        if chosen == "flex" and dropout == 0:
            return flex_deformable_attention(q, kv.to(q.dtype), positions, table, geometry)
    bias = table_bias(positions, table, q.shape[1], q.shape[2], geometry)
    return biased_attention(q, kv, table.shape[0], bias, dropout)


def _by_triton(q: Tensor, kv: Tensor, positions: Tensor, table: Tensor, geometry: str) -> Tensor:
    from dat_train.models.kernels.triton_attention import TritonDeformableAttention  # Triton is not everywhere

    return TritonDeformableAttention.apply(q, kv, positions, table, geometry)


def table_bias(positions: Tensor, table: Tensor, H: int, W: int, geometry: str) -> Tensor:
    """A table (heads, h, w) sampled at half the displacement: (B, heads, H*W, keys)."""
    if not torch.jit.is_scripting():  # noqa: SIM102  alone, so that the compiler of scripts leaves out what is inside
        if must_be_deterministic(positions):
            return table_bias_by_products(positions, table, H, W, geometry)
    B, G = positions.shape[0], positions.shape[1]
    heads, h, w = table.shape[0], table.shape[1], table.shape[2]
    table = table.to(positions.dtype).view(1, G, heads // G, h, w).expand(B, -1, -1, -1, -1).flatten(0, 1)
    grid = (displacements(positions, H, W, geometry) / 2).flip(-1).flatten(0, 1)  # grid_sample wants (x, y)
    bias = grid_sample(table, grid)
    return bias.view(B, heads, H * W, -1)


def table_bias_by_products(positions: Tensor, table: Tensor, H: int, W: int, geometry: str) -> Tensor:
    """`table_bias` as two products, along rows and along columns, whose gradients are products too."""
    B, G = positions.shape[:2]
    heads, h, w = table.shape
    points = _half_query_points(H, W, geometry, positions)
    half = positions.flatten(2, 3).unsqueeze(3) / 2  # (B, G, keys, 1, 2)
    rows = _interpolation(points[0].view(H) - half[..., 0], h)  # (B, G, keys, H, h)
    columns = _interpolation(points[1].view(W) - half[..., 1], w)
    tables = table.to(positions.dtype).view(G, heads // G, h, w)
    with torch.autocast(positions.device.type, enabled=False):  # rounded, a position's gradient would be lost
        by_row = torch.einsum("bgkih,gmhw->bgkimw", rows, tables)
        return torch.einsum("bgkimw,bgkjw->bgmijk", by_row, columns).reshape(B, heads, H * W, -1)


def _interpolation(t: Tensor, size: int) -> Tensor:
    """Weights of an axis' cells at t, where -1 and 1 are the first and last, with grid_sample's slope: (..., size)"""
    t = (t + 1) * ((size - 1) / 2)
    first = t.detach().floor()
    share, first = (t - first).unsqueeze(-1), first.unsqueeze(-1)
    cells = torch.arange(size, dtype=t.dtype, device=t.device)
    return (cells == first) * (1 - share) + (cells == first + 1) * share


def biased_attention(q: Tensor, kv: Tensor, heads: int, bias: Tensor | None, dropout: float = 0.0) -> Tensor:
    """softmax(q k^T / sqrt(d) + bias) v for a bias (B or 1, heads, H*W, keys), or none.

    Shape: q (B, H, W, C), kv (B, keys, 2C) -> (B, H, W, C).
    """
    B, H, W, C = q.shape
    k, v = kv.view(B, -1, 2, heads, C // heads).permute(2, 0, 3, 1, 4).unbind(0)
    out = F.scaled_dot_product_attention(
        q.view(B, H * W, heads, C // heads).transpose(1, 2),
        k,
        v,
        attn_mask=None if bias is None else bias.to(q.dtype),
        dropout_p=dropout,
    )
    return out.transpose(1, 2).reshape(B, H, W, C)


class _DeformableAttention(torch.autograd.Function):
    """In parts of images: no bias and no sampling grid of a whole batch is ever written."""

    @staticmethod
    def forward(ctx, q, kv, positions, table, geometry, keep):
        _, H, W, C = q.shape
        heads = table.shape[0]
        d = C // heads
        points = _half_query_points(H, W, geometry, positions)
        weights, out = [], []
        for part in _image_parts(q, positions, heads):
            grid = _grid(positions[part], *points)
            bias = grid_sample(_grouped(table, positions[part]), grid)
            queries, k, v = _heads(q[part], kv[part], heads)
            logits = bias.view(len(queries), H * W, -1).to(q.dtype).baddbmm_(queries, k.mT, alpha=d**-0.5)
            p = torch.softmax(logits, -1, out=logits)
            out.append((p @ v).view(-1, heads, H * W, d).transpose(1, 2).reshape(-1, H, W, C))
            if keep:
                weights.append(p)
        ctx.geometry = geometry
        if keep:
            ctx.save_for_backward(q, kv, positions, table, *weights)
        return joined(out)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_out):
        q, kv, positions, table, *weights = ctx.saved_tensors
        _, H, W, C = q.shape
        heads, keys = table.shape[0], kv.shape[1]
        d = C // heads
        points = _half_query_points(H, W, ctx.geometry, positions)
        d_q, d_kv, d_positions = torch.empty_like(q), torch.empty_like(kv), torch.empty_like(positions)
        d_table = torch.zeros_like(table, dtype=positions.dtype)
        end = 0
        with torch.autocast("cpu", enabled=False):
            for p in weights:
                part = slice(end, end := end + len(p) // heads)
                queries, k, v = _heads(q[part], kv[part], heads)
                d_o = grad_out[part].reshape(-1, H * W, heads, d).transpose(1, 2).reshape(-1, H * W, d)
                d_logits = torch._softmax_backward_data(d_o @ v.mT, p, -1, p.dtype)
                d_q[part].view(-1, H * W, heads, d).copy_(
                    (d_logits @ k).mul_(d**-0.5).view(-1, heads, H * W, d).transpose(1, 2)
                )
                into = d_kv[part].view(-1, keys, 2, heads, d)
                into[:, :, 0].copy_((d_logits.mT @ queries).mul_(d**-0.5).view(-1, heads, keys, d).transpose(1, 2))
                into[:, :, 1].copy_((p.mT @ d_o).view(-1, heads, keys, d).transpose(1, 2))
                d_table_share, d_grid = _table_bias_gradients(d_logits, positions[part], table, points)
                d_table += d_table_share
                # half the displacement, (x, y), shrinks by half of what a position (y, x) grows
                d_positions[part] = d_grid.sum(1).flip(-1).mul_(-0.5).view(positions[part].shape)
        return d_q, d_kv, d_positions, d_table.to(table.dtype), None, None


def _table_bias_gradients(
    d_bias: Tensor, positions: Tensor, table: Tensor, points: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    """Gradients of the table (heads, h, w) and of the grid it is sampled at, given that of the bias.

    grid_sample adds every share of the table's gradient to its four cells one by one. In bfloat16, whose products are
    cheap, two of them do the same in less time.
    """
    grouped, grid = _grouped(table, positions), _grid(positions, *points)
    by_products = d_bias.dtype == torch.bfloat16
    d_sampled = d_bias.to(grid.dtype).view(len(grid), -1, *grid.shape[1:3])
    d_tables, d_grid = torch.ops.aten.grid_sampler_2d_backward(
        d_sampled, grouped, grid, 0, 0, True, [not by_products, True]
    )
    d_table = _table_gradient(d_bias, positions, table, points) if by_products else d_tables.view(-1, *table.shape)
    return d_table.sum(0, dtype=positions.dtype), d_grid


def _table_gradient(d_bias: Tensor, positions: Tensor, table: Tensor, points: tuple[Tensor, Tensor]) -> Tensor:
    """(B, heads, h, w): cell (r, c) gets sum over keys, i, j of row(i, r) d_bias(i, j) column(j, c); query (i, j)."""
    B, G, Hk, Wk, _ = positions.shape
    heads, h, w = table.shape
    H, W, M = len(points[0]), len(points[1]), heads // G
    keys = Hk * Wk
    positions = positions.reshape(B * G, keys, 1, 2)
    rows = _shares(points[0].view(H) - positions[..., 0] / 2, h).to(d_bias.dtype)  # (B * G, keys, H, h)
    columns = _shares(points[1].view(W) - positions[..., 1] / 2, w).to(d_bias.dtype)
    d_bias = d_bias.view(B * G, M, H, W, keys).permute(0, 4, 2, 1, 3).reshape(-1, H * M, W)
    by_column = torch.bmm(d_bias, columns.view(-1, W, w))  # for each key (H * M, w)
    d_table = torch.bmm(rows.view(B * G, keys * H, h).mT, by_column.view(B * G, keys * H, M * w))
    return d_table.view(B, G, h, M, w).transpose(2, 3).reshape(B, heads, h, w)


def _shares(t: Tensor, size: int) -> Tensor:
    """Weights of an axis' cells in a linear interpolation at t, where -1 and 1 are the first and last: (..., size)"""
    cells = torch.arange(size, dtype=t.dtype)
    return (((t + 1) * ((size - 1) / 2)).unsqueeze(-1) - cells).abs_().neg_().add_(1).clamp_(min=0)


def _image_parts(q: Tensor, positions: Tensor, heads: int) -> list[slice]:
    _, G, Hk, Wk, _ = positions.shape
    pairs = q.shape[1] * q.shape[2] * Hk * Wk
    return parts(len(q), pairs * max(heads * q.element_size(), 2 * G * positions.element_size()))


def _heads(q: Tensor, kv: Tensor, heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """q (B * heads, H*W, d), k and v (B * heads, keys, d); no copies where B is 1."""
    B, H, W, C = q.shape
    queries = q.view(B, H * W, heads, C // heads).transpose(1, 2).reshape(B * heads, H * W, -1)
    k, v = kv.view(B, -1, 2, heads, C // heads).permute(2, 0, 3, 1, 4).reshape(2, B * heads, -1, C // heads)
    return queries, k, v


def _half_query_points(H: int, W: int, geometry: str, like: Tensor) -> tuple[Tensor, Tensor]:
    """Half the query points, (H, 1) and (W, 1): the table is sampled at half the displacement."""
    return query_points(H, geometry, like).view(H, 1) / 2, query_points(W, geometry, like).view(W, 1) / 2


def _grid(positions: Tensor, half_y: Tensor, half_x: Tensor) -> Tensor:
    """Where the table is sampled: (B * groups, H * W, keys, 2) as (x, y)."""
    positions = positions.flatten(0, 1).flatten(1, 2) / 2  # (B * groups, keys, 2)
    N, keys, _ = positions.shape
    H, W = len(half_y), len(half_x)
    grid = positions.new_empty(N, H, W, keys, 2)
    grid[..., 0] = (half_x - positions[:, None, :, 1]).unsqueeze(1)
    grid[..., 1] = (half_y - positions[:, None, :, 0]).unsqueeze(2)
    return grid.view(N, H * W, keys, 2)


def _grouped(table: Tensor, positions: Tensor) -> Tensor:
    """The table for every group of every image: (B * groups, heads / groups, h, w), in the format of positions."""
    B, G = positions.shape[:2]
    heads, h, w = table.shape
    return table.to(positions.dtype).view(1, G, heads // G, h, w).expand(B, -1, -1, -1, -1).flatten(0, 1)
