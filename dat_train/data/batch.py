"""Batch of samples, its preparation on the device, and conversion of normalized images to pixels."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from dat_train.data.erasing import erase_


class Batch(NamedTuple):
    """Batch from a loader.

    Attributes:
        images: (B, C, H, W). uint8 if `normalization` is given; otherwise float32, already normalized.
        labels: (B,) class indices, (B, classes) of 0 and 1 in multi-label data, or the targets of another task.
        indices: (B,) positions in the set.
        unreadable: paths of the files that could not be read.
        normalization: (2, C), mean and standard deviation of pixel values between 0 and 1.
        erasing: (B, 5) rectangles to fill with noise after normalization, see `erasing.Rectangle`.
    """

    images: Tensor
    labels: Tensor
    indices: Tensor
    unreadable: list[str]
    normalization: Tensor | None = None
    erasing: Tensor | None = None


class SceneList(list[Any]):
    """Samples of one batch of evaluation that are not combined, because their sizes differ."""

    @property
    def unreadable(self) -> list[str]:
        return [path for scene in self for path in scene.unreadable]


def prepare_images(batch: Batch, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> Tensor:
    """Move the images of a batch to `device`, normalize them and apply random erasing.

    Training, evaluation and pictures use it, so that a model always gets the same input.

    Returns:
        images (B, C, H, W) of `dtype`, contiguous.
    """
    images = batch.images.to(device, non_blocking=True)
    if batch.normalization is None:
        return images.to(dtype)
    images = normalize(images, batch.normalization.to(device, non_blocking=True), dtype)
    return images if batch.erasing is None else erase_(images, batch.erasing)


def normalize(images: Tensor, normalization: Tensor, dtype: torch.dtype) -> Tensor:
    """Normalize uint8 images (B, C, H, W) exactly as torchvision's ToTensor and Normalize do.

    The result is computed in float32 and is the same on a CPU and on a GPU: a division by a tensor is rounded
    correctly, while CUDA replaces the division by a Python number by a multiplication.
    """
    mean, std = normalization.to(torch.float32)[:, :, None, None]
    white = torch.full_like(mean, 255)
    result = torch.empty(images.shape, dtype=torch.float32, device=images.device)
    # On a CPU, one image at a time stays in the cache during the four passes, which takes a third of the time.
    parts = zip(result, images, strict=True) if images.device.type == "cpu" else [(result, images)]
    for part, pixels in parts:
        part.copy_(pixels).div_(white).sub_(mean).div_(std)
    return result.to(dtype)


def denormalize(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> np.ndarray:
    """Pixels of normalized images: (..., C, H, W) -> (..., H, W, 3) uint8. One channel becomes gray."""
    mean, std = (torch.tensor(list(values), dtype=torch.float32).view(-1, 1, 1) for values in (mean, std))
    pixels = (images.detach().float().cpu() * std + mean).clamp(0, 1) * 255
    pixels = pixels.round().to(torch.uint8).expand(*images.shape[:-3], 3, *images.shape[-2:])
    return pixels.movedim(-3, -1).contiguous().numpy()
