"""Where reference points and queries lie, (y, x) in [-1, 1] (spec: "Deformable attention")."""

import torch
from torch import Tensor

GEOMETRIES = ("cvpr", "dat++")


def reference_points(size: int, geometry: str, like: Tensor) -> Tensor:
    """(size,) coordinates in [-1, 1] of the uniform reference points along one axis (spec: step 4)."""
    steps = torch.arange(size, dtype=like.dtype, device=like.device) + 0.5
    # DAT++ divides by size - 1, so its grid leans outwards; one single point sits in the middle in both
    return 2 * steps / (size if geometry == "cvpr" else max(size - 1, 1)) - 1


def query_points(size: int, geometry: str, like: Tensor) -> Tensor:
    """(size,) coordinates in [-1, 1] of the queries along one axis, for the bias alone (spec: after step 8)."""
    if geometry == "cvpr" or size == 1:  # a single DAT++ query: the middle, not the left border
        return reference_points(size, "cvpr", like)
    return 2 * torch.arange(size, dtype=like.dtype, device=like.device) / (size - 1) - 1


def displacements(positions: Tensor, H: int, W: int, geometry: str) -> Tensor:
    """(B, groups, H*W, keys, 2) query position minus key position, (y, x), in [-2, 2] for keys inside the map."""
    y = query_points(H, geometry, positions)
    x = query_points(W, geometry, positions)
    queries = torch.stack(torch.meshgrid(y, x, indexing="ij"), dim=-1).view(1, 1, H * W, 1, 2)
    return queries - positions.flatten(2, 3).unsqueeze(2)
