"""Bilinear sampling of features at positions."""

import torch
import torch.nn.functional as F
from torch import Tensor

from dat_train.models.kernels.choice import implementation, must_be_deterministic


def sample_bilinear(x: Tensor, positions: Tensor) -> Tensor:
    """Each group's channels at its positions: bilinear, zeros outside, -1 and 1 the centres of the border pixels.

    Shape: x (B, H, W, C), positions (B, groups, Hk, Wk, 2) as (y, x) -> (B, Hk*Wk, C), in x's dtype.
    """
    if not torch.jit.is_scripting():  # noqa: SIM102  alone, so that the compiler of scripts leaves out what is inside
        if implementation(x) == "parts" or must_be_deterministic(x):
            return _sample_rows(x.to(positions.dtype), positions).to(x.dtype)
    return sample_bilinear_plain(x, positions)


def sample_bilinear_plain(x: Tensor, positions: Tensor) -> Tensor:
    """`sample_bilinear` by `grid_sample`, on a channels-first copy of the map."""
    B, H, W, C = x.shape
    G, Hk, Wk = positions.shape[1], positions.shape[2], positions.shape[3]
    grouped = x.view(B, H, W, G, C // G).permute(0, 3, 4, 1, 2).reshape(B * G, C // G, H, W)
    sampled = grid_sample(grouped.to(positions.dtype), positions.flip(-1).reshape(B * G, Hk, Wk, 2))
    return sampled.view(B, C, Hk * Wk).transpose(1, 2).to(x.dtype)


def grid_sample(x: Tensor, grid: Tensor) -> Tensor:
    """torch's grid_sample: bilinear, zeros outside, -1 and 1 the centres of the border pixels.

    On CUDA by torch's kernel: `F.grid_sample` calls cuDNN's, which compilers can neither look into nor trace with open
    sizes.

    Shape: x (N, C, H, W), grid (N, h, w, 2) as (x, y) -> (N, C, h, w).
    """
    if x.is_cuda:
        return torch.grid_sampler_2d(x, grid, 0, 0, True)
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=True)


def _sample_rows(x: Tensor, positions: Tensor) -> Tensor:
    """A sample is the weighted sum of four rows of C / groups channels, and rows lie in x as they are: no copy."""
    B, H, W, C = x.shape
    G, Hk, Wk = positions.shape[1:4]
    y, x_ = ((positions.permute(0, 2, 3, 1, 4) + 1) / 2).unbind(-1)  # (B, Hk, Wk, G), 0 and 1 the borders
    rows, row_weights = _neighbours(y * (H - 1), H)  # (B, Hk, Wk, G, 2)
    columns, column_weights = _neighbours(x_ * (W - 1), W)
    pixel = rows.unsqueeze(-1) * W + columns.unsqueeze(-2)  # (B, Hk, Wk, G, 2, 2)
    image = torch.arange(B, device=x.device).view(B, 1, 1, 1, 1, 1)
    group = torch.arange(G, device=x.device).view(G, 1, 1)
    index = (image * (H * W) + pixel) * G + group
    weight = row_weights.unsqueeze(-1) * column_weights.unsqueeze(-2)
    sampled = F.embedding_bag(
        index.view(-1, 4), x.reshape(-1, C // G), mode="sum", per_sample_weights=weight.view(-1, 4)
    )
    return sampled.view(B, Hk * Wk, C)


def _neighbours(t: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """The two pixels around coordinate t on an axis, and their weights: (..., 2) each; weight 0 outside."""
    first = t.detach().floor()
    share = t - first
    index = torch.stack((first, first + 1), -1).long()
    inside = (index >= 0) & (index < size)
    return index.clamp(0, size - 1), torch.stack((1 - share, share), -1) * inside
