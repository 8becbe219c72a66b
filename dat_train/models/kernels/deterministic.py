"""Deformable attention for CUDA with deterministic algorithms: no grid_sample, whose gradient is not deterministic."""

import torch
from torch import Tensor

from dat_train.models.deformable import DeformableAttention, TableBias, query_points
from dat_train.models.kernels.row_sampling import sample_rows


class DeterministicDeformableAttention(DeformableAttention):
    """DeformableAttention that samples features as weighted sums of rows."""

    def features(self, x: Tensor, positions: Tensor) -> Tensor:
        return super().features(x, positions) if self.pooled else sample_rows(x, positions)


class DeterministicTableBias(TableBias):
    """TableBias as two products, along the rows and along the columns of the table; their gradients are products."""

    def forward(self, positions: Tensor, H: int, W: int) -> Tensor:
        B, G = positions.shape[:2]
        heads, h, w = self.table.shape
        half = positions.flatten(2, 3).unsqueeze(3) / 2  # (B, G, keys, 1, 2)
        y, x = query_points(H, self.geometry, positions) / 2, query_points(W, self.geometry, positions) / 2
        rows, columns = _cell_weights(y - half[..., 0], h), _cell_weights(x - half[..., 1], w)  # (B, G, keys, H, h)
        tables = self.table.to(positions.dtype).view(G, heads // G, h, w)
        with torch.autocast(positions.device.type, enabled=False):  # rounding would remove the positions' gradient
            by_row = torch.einsum("bgkih,gmhw->bgkimw", rows, tables)
            return torch.einsum("bgkimw,bgkjw->bgmijk", by_row, columns).reshape(B, heads, H * W, -1)


def _cell_weights(t: Tensor, size: int) -> Tensor:
    """Weights (..., size) of the cells of an axis at t; -1, 1: first and last cell. Gradient as in grid_sample."""
    t = (t + 1) * ((size - 1) / 2)
    first = t.detach().floor()
    share, first = (t - first).unsqueeze(-1), first.unsqueeze(-1)
    cells = torch.arange(size, dtype=t.dtype, device=t.device)
    return (cells == first) * (1 - share) + (cells == first + 1) * share
