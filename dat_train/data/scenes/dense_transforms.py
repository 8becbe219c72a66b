"""Augmentation of an image together with its label map or boxes, by torchvision.transforms.v2.

Random draws come from torch's global generator: call them inside `keyed_randomness`.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F
from torchvision.transforms.v2 import query_size

IGNORED = 255


def fitted_size(size: Sequence[int], limits: Sequence[float]) -> tuple[int, int]:
    """(height, width) of an image fitted into limits, keeping its aspect ratio, rounded to the nearest pixel.

    Args:
        size: (height, width).
        limits: (long side, short side).
    """
    factor = min(max(limits) / max(size), min(limits) / min(size))
    return max(int(size[0] * factor + 0.5), 1), max(int(size[1] * factor + 0.5), 1)


def scaled_views(
    image: Image.Image, limits: Sequence[int], scales: Sequence[float], normalized: "Normalized"
) -> list[Tensor]:
    """An image fitted into the limits times each scale, bilinear without antialiasing, normalized: (3, h, w) each.

    Args:
        limits: (long side, short side) at scale 1, pixels.
    """
    sizes = [
        fitted_size((image.height, image.width), [max(int(limit * scale), 1) for limit in limits]) for scale in scales
    ]
    picture = tv_tensors.Image(image)
    return [normalized(F.resize(picture, list(size), antialias=False)).as_subclass(Tensor) for size in sizes]


class FitInto(v2.Transform):
    """Resize into (long side, short side) times a uniform ratio; images bilinear without antialiasing, masks nearest.

    Args:
        limits: (long side, short side), pixels.
        ratio: range of the factor of both limits.
    """

    def __init__(self, limits: Sequence[int], ratio: Sequence[float] = (1.0, 1.0)) -> None:
        super().__init__()
        self.limits = tuple(limits)
        self.ratio = tuple(ratio)

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        factor = uniform(*self.ratio)
        limits = [int(limit * factor) for limit in self.limits]
        return {"size": fitted_size(query_size(flat_inputs), limits)}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        return self._call_kernel(F.resize, inpt, list(params["size"]), antialias=False)


class CropWithClassLimit(v2.Transform):
    """Random crop, drawn again until no class covers too much of it.

    Args:
        size: side of the crop, pixels; a smaller image is not cropped in this direction.
        max_share: limit of the fraction of one class among the valid pixels; a crop must also have two classes or more.
        tries: maximum number of draws; the last one is always accepted.
    """

    def __init__(self, size: int, max_share: float = 0.75, tries: int = 10) -> None:
        super().__init__()
        self.size = size
        self.max_share = max_share
        self.tries = tries

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        mask = next(x for x in flat_inputs if isinstance(x, tv_tensors.Mask))
        height, width = mask.shape[-2:]
        for _ in range(self.tries):
            crop = {
                "top": randint(max(height - self.size, 0) + 1),
                "left": randint(max(width - self.size, 0) + 1),
                "height": min(self.size, height),
                "width": min(self.size, width),
            }
            counts = torch.bincount(F.crop(mask, **crop).flatten().long(), minlength=256)[:IGNORED]
            if (counts > 0).sum() > 1 and counts.max() < self.max_share * counts.sum():
                break
        return crop

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        return self._call_kernel(F.crop, inpt, **params)


class PhotometricDistortion(v2.Transform):
    """Brightness, contrast, saturation and hue of an 8-bit image, each with probability 0.5.

    Brightness changes by -32 to 32. Contrast is multiplied by 0.5 to 1.5, with equal probability before or after the
    other two: saturation is multiplied by 0.5 to 1.5, and hue is rotated by up to 36 degrees, both in HSV.
    """

    _transformed_types = (tv_tensors.Image,)

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        values = inpt.permute(1, 2, 0).numpy()
        if chance():
            values = _scaled(values, 1, uniform(-32, 32))
        contrast_last = chance()
        if not contrast_last and chance():
            values = _scaled(values, uniform(0.5, 1.5), 0)
        if chance():
            hsv = np.array(Image.fromarray(values).convert("HSV"))
            hsv[..., 1] = _scaled(hsv[..., 1], uniform(0.5, 1.5), 0)
            values = _rgb(hsv)
        if chance():
            hsv = np.array(Image.fromarray(values).convert("HSV"))
            hsv[..., 0] += np.uint8(round(uniform(-25.6, 25.6)) % 256)
            values = _rgb(hsv)
        if contrast_last and chance():
            values = _scaled(values, uniform(0.5, 1.5), 0)
        return tv_tensors.Image(torch.from_numpy(np.array(values)).permute(2, 0, 1))


class PadTo(v2.Transform):
    """Padding right and below to at least a size, pixels: images with 0, masks with 255."""

    def __init__(self, least: int) -> None:
        super().__init__()
        self.least = least

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        height, width = query_size(flat_inputs)
        return {"padding": [0, 0, max(self.least - width, 0), max(self.least - height, 0)]}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        fill = IGNORED if isinstance(inpt, tv_tensors.Mask) else 0
        return self._call_kernel(F.pad, inpt, params["padding"], fill=fill)


class Normalized(v2.Transform):
    """8-bit images as float32, minus the mean, divided by the standard deviation (both for a range of 0 to 1)."""

    _transformed_types = (tv_tensors.Image,)

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.mean, self.std = list(mean), list(std)

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        return F.normalize(F.to_dtype(inpt, torch.float32, scale=True), self.mean, self.std)


def segmentation_train_transform(
    *,
    limits: Sequence[int],
    ratio: Sequence[float] = (0.5, 2.0),
    crop: int,
    max_share: float = 0.75,
    hflip: float = 0.5,
    photometric: bool = True,
    mean: Sequence[float],
    std: Sequence[float],
) -> v2.Transform:
    """Augmentation of training as published for ADE20K.

    Args:
        limits: (long side, short side) at ratio 1.
        ratio: range of the resizing ratio.
        crop: side of the square input of the model, pixels.
        max_share: limit of the fraction of one class in a crop.
        hflip: probability of mirroring.
        photometric: distort the colors.
        mean, std: of the image's channels, for a range of 0 to 1.

    Returns:
        (tv Image uint8, tv Mask) -> (image (3, crop, crop) float32, mask (crop, crop)).
    """
    return v2.Compose(
        [
            FitInto(limits, ratio),
            CropWithClassLimit(crop, max_share),
            v2.RandomHorizontalFlip(hflip),
            *([PhotometricDistortion()] if photometric else []),
            Normalized(mean, std),
            PadTo(crop),
        ]
    )


def chance(probability: float = 0.5) -> bool:
    return bool(torch.rand(()) < probability)


def uniform(low: float, high: float) -> float:
    return low + (high - low) * float(torch.rand(()))


def randint(end: int) -> int:
    """Whole number from 0 to end - 1."""
    return int(torch.randint(end, ()))


def _rgb(hsv: np.ndarray) -> np.ndarray:
    height, width, _ = hsv.shape
    return np.asarray(Image.frombytes("HSV", (width, height), hsv.tobytes()).convert("RGB"))


def _scaled(values: np.ndarray, factor: float, shift: float) -> np.ndarray:
    return np.clip(values.astype(np.float32) * factor + shift, 0, 255).astype(np.uint8)
