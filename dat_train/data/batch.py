"""Batch of samples, and its preparation on the device."""

from typing import NamedTuple

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


def prepare_images(batch: Batch, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> Tensor:
    """Move the images of a batch to `device`, normalize them and apply random erasing.

    The only way from a batch to the input of a model: training, evaluation and pictures use it.

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
    # On a CPU one image at a time stays in the cache through the four passes, which takes a third of the time.
    parts = zip(result, images, strict=True) if images.device.type == "cpu" else [(result, images)]
    for part, pixels in parts:
        part.copy_(pixels).div_(white).sub_(mean).div_(std)
    return result.to(dtype)
