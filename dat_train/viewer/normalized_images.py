"""Normalized images converted back to RGB pixels."""

from collections.abc import Sequence

import torch
from torch import Tensor


def to_rgb(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Undo the normalization with `mean` and `std`. (..., C, H, W) -> (..., 3, H, W) uint8 on the CPU.

    One channel becomes grey.
    """
    mean, std = (torch.tensor(list(values), dtype=torch.float32).view(-1, 1, 1) for values in (mean, std))
    pixels = (images.detach().float().cpu() * std + mean).clamp(0, 1) * 255
    return pixels.round().to(torch.uint8).expand(*images.shape[:-3], 3, *images.shape[-2:])
