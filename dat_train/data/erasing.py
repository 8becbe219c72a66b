"""Random erasing: rectangles drawn with the sample, noise drawn on the device (Zhong et al., AAAI 2020; as in timm)."""

import math
import random
from typing import NamedTuple

import torch
from torch import Tensor

AREA = (0.02, 1 / 3)  # range of the erased area, as a fraction of the image
LOG_ASPECT = (math.log(0.3), math.log(1 / 0.3))
ATTEMPTS = 10


class Rectangle(NamedTuple):
    """Rectangle to erase, in pixels, and the seed of its noise; height 0: nothing is erased."""

    seed: int = 0
    top: int = 0
    left: int = 0
    height: int = 0
    width: int = 0


def draw_rectangle(probability: float, height: int, width: int) -> Rectangle:
    """Draw the rectangle of one image from Python's generator, as timm's `RandomErasing` does.

    Args:
        probability: of erasing anything.
        height, width: of the image, pixels.
    """
    if random.random() > probability:
        return Rectangle()
    for _ in range(ATTEMPTS):
        area = random.uniform(*AREA) * height * width
        aspect = math.exp(random.uniform(*LOG_ASPECT))
        h, w = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if h < height and w < width:
            top, left = random.randint(0, height - h), random.randint(0, width - w)
            return Rectangle(random.getrandbits(62), top, left, h, w)
    return Rectangle()


def erase_(images: Tensor, rectangles: Tensor) -> Tensor:
    """Fill the rectangles with standard normal noise per pixel, in place.

    Each rectangle has a separate generator, so that the noise of a sample depends on its seed and the type of the
    device only, not on the batch.

    Args:
        images: (B, C, H, W), normalized, on any device.
        rectangles: (B, 5), rows of `Rectangle`, on the CPU.

    Returns:
        `images`.
    """
    generator = None
    for image, values in zip(images, rectangles.tolist(), strict=True):
        seed, top, left, height, width = values
        if not height:
            continue
        generator = generator or torch.Generator(images.device)
        generator.manual_seed(seed)
        noise = torch.randn((len(image), height, width), generator=generator, device=images.device)
        image[:, top : top + height, left : left + width] = noise
    return images
