"""Deformable attention in chunks of images (docs/model.md, "Deformable attention", steps 6 and 8)."""

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from dat_train.models.deformable import DeformableAttention, TableBias, query_points
from dat_train.models.kernels.cpu.chunks import cat, chunks, needs_gradient
from dat_train.models.kernels.row_sampling import sample_rows


class CPUDeformableAttention(DeformableAttention):
    """DeformableAttention that samples without a channels-first copy, and attends in chunks with a bias table.

    It stores no sampling grid and no bias for a whole batch.
    """

    def features(self, x: Tensor, positions: Tensor) -> Tensor:
        return super().features(x, positions) if self.pooled else sample_rows(x, positions)

    def attend(self, q: Tensor, kv: Tensor, positions: Tensor) -> Tensor:
        if not isinstance(self.bias, TableBias) or (self.training and self.attn_drop > 0):
            return super().attend(q, kv, positions)
        table = self.bias.table
        with torch.autocast("cpu", enabled=False):
            keep = needs_gradient(q, kv, positions, table)
            return _DeformableAttention.apply(q, kv.to(q.dtype), positions, table, self.sampling.geometry, keep)


class _DeformableAttention(torch.autograd.Function):
    """softmax(q k^T / sqrt(d) + bias) v; the bias is a table sampled at half the displacement of query and key.

    Shape: q (B, H, W, C), kv (B, keys, 2C), positions (B, G, Hk, Wk, 2), table (M, h, w) -> (B, H, W, C).
    """

    @staticmethod
    def forward(ctx, q, kv, positions, table, geometry, keep):
        _, H, W, C = q.shape
        heads = table.shape[0]
        d = C // heads
        points = _half_query_points(H, W, geometry, positions)
        weights, out = [], []
        for chunk in _image_chunks(q, positions, heads):
            grid = _grid(positions[chunk], *points)
            bias = torch.grid_sampler_2d(_tables(table, positions[chunk]), grid, 0, 0, True)
            queries, k, v = _heads(q[chunk], kv[chunk], heads)
            logits = bias.view(len(queries), H * W, -1).to(q.dtype).baddbmm_(queries, k.mT, alpha=d**-0.5)
            p = torch.softmax(logits, -1, out=logits)
            out.append((p @ v).view(-1, heads, H * W, d).transpose(1, 2).reshape(-1, H, W, C))
            if keep:
                weights.append(p)
        ctx.geometry = geometry
        if keep:
            ctx.save_for_backward(q, kv, positions, table, *weights)
        return cat(out)

    @staticmethod
    @once_differentiable
    def backward(ctx, d_out):
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
                chunk = slice(end, end := end + len(p) // heads)
                queries, k, v = _heads(q[chunk], kv[chunk], heads)
                d_o = d_out[chunk].reshape(-1, H * W, heads, d).transpose(1, 2).reshape(-1, H * W, d)
                d_logits = torch._softmax_backward_data(d_o @ v.mT, p, -1, p.dtype)
                d_q[chunk].view(-1, H * W, heads, d).copy_(
                    (d_logits @ k).mul_(d**-0.5).view(-1, heads, H * W, d).transpose(1, 2)
                )
                into = d_kv[chunk].view(-1, keys, 2, heads, d)
                into[:, :, 0].copy_((d_logits.mT @ queries).mul_(d**-0.5).view(-1, heads, keys, d).transpose(1, 2))
                into[:, :, 1].copy_((p.mT @ d_o).view(-1, heads, keys, d).transpose(1, 2))
                d_table_share, d_grid = _bias_gradients(d_logits, positions[chunk], table, points)
                d_table += d_table_share
                # half the displacement, (x, y), decreases by half of the increase of a position (y, x)
                d_positions[chunk] = d_grid.sum(1).flip(-1).mul_(-0.5).view(positions[chunk].shape)
        return d_q, d_kv, d_positions, d_table.to(table.dtype), None, None


def _bias_gradients(
    d_bias: Tensor, positions: Tensor, table: Tensor, points: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    """Gradients of the table (M, h, w) and of the grid it is sampled at.

    grid_sample adds each term of the table's gradient to four cells one by one. In bfloat16, two batched matrix
    products take less time.
    """
    tables, grid = _tables(table, positions), _grid(positions, *points)
    by_products = d_bias.dtype == torch.bfloat16
    d_sampled = d_bias.to(grid.dtype).view(len(grid), -1, *grid.shape[1:3])
    d_tables, d_grid = torch.ops.aten.grid_sampler_2d_backward(
        d_sampled, tables, grid, 0, 0, True, [not by_products, True]
    )
    d_table = _table_gradient(d_bias, positions, table, points) if by_products else d_tables.view(-1, *table.shape)
    return d_table.sum(0, dtype=positions.dtype), d_grid


def _table_gradient(d_bias: Tensor, positions: Tensor, table: Tensor, points: tuple[Tensor, Tensor]) -> Tensor:
    """(B, M, h, w): the sum over keys and queries (i, j) of row(i, r) d_bias(i, j) column(j, c) for a cell (r, c)."""
    B, G, Hk, Wk, _ = positions.shape
    heads, h, w = table.shape
    H, W, M = len(points[0]), len(points[1]), heads // G
    keys = Hk * Wk
    positions = positions.reshape(B * G, keys, 1, 2)
    rows = _cell_weights(points[0].view(H) - positions[..., 0] / 2, h).to(d_bias.dtype)  # (B * G, keys, H, h)
    columns = _cell_weights(points[1].view(W) - positions[..., 1] / 2, w).to(d_bias.dtype)
    d_bias = d_bias.view(B * G, M, H, W, keys).permute(0, 4, 2, 1, 3).reshape(-1, H * M, W)
    by_column = torch.bmm(d_bias, columns.view(-1, W, w))  # (B * G * keys, H * M, w)
    d_table = torch.bmm(rows.view(B * G, keys * H, h).mT, by_column.view(B * G, keys * H, M * w))
    return d_table.view(B, G, h, M, w).transpose(2, 3).reshape(B, heads, h, w)


def _cell_weights(t: Tensor, size: int) -> Tensor:
    """Weights (..., size) of the cells of an axis in a linear interpolation at t; -1, 1: the first and last cell."""
    cells = torch.arange(size, dtype=t.dtype)
    return (((t + 1) * ((size - 1) / 2)).unsqueeze(-1) - cells).abs_().neg_().add_(1).clamp_(min=0)


def _image_chunks(q: Tensor, positions: Tensor, heads: int) -> list[slice]:
    _, G, Hk, Wk, _ = positions.shape
    pairs = q.shape[1] * q.shape[2] * Hk * Wk
    return chunks(len(q), pairs * max(heads * q.element_size(), 2 * G * positions.element_size()))


def _heads(q: Tensor, kv: Tensor, heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """q (B * M, H*W, d), k and v (B * M, keys, d); without a copy for a single image."""
    B, H, W, C = q.shape
    queries = q.view(B, H * W, heads, C // heads).transpose(1, 2).reshape(B * heads, H * W, -1)
    k, v = kv.view(B, -1, 2, heads, C // heads).permute(2, 0, 3, 1, 4).reshape(2, B * heads, -1, C // heads)
    return queries, k, v


def _half_query_points(H: int, W: int, geometry: str, like: Tensor) -> tuple[Tensor, Tensor]:
    """Half the coordinates of the queries, (H, 1) and (W, 1): the table is sampled at half the displacement."""
    return query_points(H, geometry, like).view(H, 1) / 2, query_points(W, geometry, like).view(W, 1) / 2


def _grid(positions: Tensor, half_y: Tensor, half_x: Tensor) -> Tensor:
    """(B * G, H * W, keys, 2) coordinates in the table, as (x, y)."""
    positions = positions.flatten(0, 1).flatten(1, 2) / 2  # (B * G, keys, 2)
    N, keys, _ = positions.shape
    H, W = len(half_y), len(half_x)
    grid = positions.new_empty(N, H, W, keys, 2)
    grid[..., 0] = (half_x - positions[:, None, :, 1]).unsqueeze(1)
    grid[..., 1] = (half_y - positions[:, None, :, 0]).unsqueeze(2)
    return grid.view(N, H * W, keys, 2)


def _tables(table: Tensor, positions: Tensor) -> Tensor:
    """The table of every group of every image, (B * G, M / G, h, w), in the dtype of the positions."""
    B, G = positions.shape[:2]
    heads, h, w = table.shape
    return table.to(positions.dtype).view(1, G, heads // G, h, w).expand(B, -1, -1, -1, -1).flatten(0, 1)
