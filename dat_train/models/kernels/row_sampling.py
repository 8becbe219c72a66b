"""Bilinear sampling (docs/model.md, step 6) as a weighted sum of rows, without a channels-first copy of the map.

Used on a CPU for speed, and on CUDA if deterministic algorithms are required: the gradient of grid_sample is not
deterministic there.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def sample_rows(x: Tensor, positions: Tensor) -> Tensor:
    """`sample_bilinear` of models/deformable.py: each sample is a weighted sum of four rows of C / G channels.

    Shape: x (B, H, W, C), positions (B, G, Hk, Wk, 2) as (y, x) -> (B, Hk*Wk, C), in x's dtype.
    """
    B, H, W, C = x.shape
    G, Hk, Wk = positions.shape[1:4]
    y, x_ = ((positions.permute(0, 2, 3, 1, 4) + 1) / 2).unbind(-1)  # (B, Hk, Wk, G), 0 and 1 the borders
    rows, row_weights = _neighbors(y * (H - 1), H)  # (B, Hk, Wk, G, 2)
    columns, column_weights = _neighbors(x_ * (W - 1), W)
    pixel = rows.unsqueeze(-1) * W + columns.unsqueeze(-2)  # (B, Hk, Wk, G, 2, 2)
    image = torch.arange(B, device=x.device).view(B, 1, 1, 1, 1, 1)
    group = torch.arange(G, device=x.device).view(G, 1, 1)
    index = (image * (H * W) + pixel) * G + group
    weight = row_weights.unsqueeze(-1) * column_weights.unsqueeze(-2)
    rows_of_groups = x.to(positions.dtype).reshape(-1, C // G)
    sampled = F.embedding_bag(index.view(-1, 4), rows_of_groups, mode="sum", per_sample_weights=weight.view(-1, 4))
    return sampled.view(B, Hk * Wk, C).to(x.dtype)


def _neighbors(t: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """The two pixels around coordinate t of an axis and their weights, (..., 2) each; weight 0 outside the map."""
    first = t.detach().floor()
    share = t - first
    index = torch.stack((first, first + 1), -1).long()
    inside = (index >= 0) & (index < size)
    return index.clamp(0, size - 1), torch.stack((1 - share, share), -1) * inside
