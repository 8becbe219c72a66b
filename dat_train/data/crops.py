"""Random resized crops of encoded images, which decode no more pixels than the crop needs. Training only."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from timm.data.transforms import RandomResizedCropAndInterpolation
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg

from dat_train.data.images import (
    WHITE,
    Source,
    UnreadableImage,
    image_error,
    open_image,
    orientation,
    read_bytes,
    read_rgb,
    to_rgb,
    upright,
)

JPEG = ("JPEG", "MPO")  # MPO: several JPEG images in one file, as phones write them; the first one is read
REDUCTIONS = (4, 2)  # of libjpeg's scaled decoding; its 1/8 is a plain mean of 8 x 8 pixels, which blurs
MARGIN = 2  # smallest ratio of the side of a reduced crop to the side of the result
PILLOW = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "nearest": Image.Resampling.NEAREST,
}
TORCH = {
    "bicubic": {"mode": "bicubic", "antialias": True},
    "bilinear": {"mode": "bilinear", "antialias": True},
    "nearest": {"mode": "nearest-exact"},  # the pixels that Pillow takes
}

Box = tuple[float, float, float, float]  # left, top, width, height in pixels of the upright image


class RandomResizedCrop:
    """Random resized crop with timm's distribution of boxes, as 8-bit pixels.

    - JPEG files are decoded by torchvision: the same pixels as Pillow's, in less time. A file that torchvision cannot
      read, a rotated image, and every other format are decoded by Pillow.
    - If the crop of a JPEG file is much larger than the result, the file is decoded at 1/2 or 1/4 of its size
      (scaled inverse DCT). The crop then still has at least twice the side of the result.
    - The crop is resized with antialiasing by torch, on 8-bit integers.

    docs/input_pipeline.md compares time and pixels with timm's transform.

    Args:
        size: side of the result, pixels.
        scale: range of the crop's area, as a fraction of the image; None: the whole image is resized to a
            square by Pillow, exactly as in evaluation.
        ratio: range of the crop's aspect ratio.
        interpolation: bicubic, bilinear or nearest.
        background: color behind transparent pixels.
    """

    def __init__(
        self,
        size: int,
        scale: Sequence[float] | None,
        ratio: Sequence[float],
        interpolation: str = "bicubic",
        background: Sequence[int] = WHITE,
    ) -> None:
        self.size = size
        self.scale = tuple(scale) if scale else None
        self.ratio = tuple(ratio)
        self.interpolation = interpolation
        self.background = tuple(background)

    def __call__(self, image: Source | Image.Image) -> Tensor:
        """Return a crop (3, size, size), uint8, channels last in memory. Draws from Python's generator.

        Raises:
            UnreadableImage
        """
        return self.resize(*self.decode(image))

    def decode(self, image: Source | Image.Image) -> tuple[Tensor | Image.Image, Box]:
        """Draw a box and decode the pixels that it needs.

        Returns:
            pixels (3, H, W) or a PIL image, and the box to resize in it.

        Raises:
            UnreadableImage
        """
        try:
            if isinstance(image, Image.Image):
                return self._whole(image)
            if self.scale is None:
                return self._whole(read_rgb(image, background=self.background))
            return self._decode(read_bytes(image))
        except UnreadableImage:
            raise
        except Exception as error:  # as in read_rgb
            raise image_error(image, error) from error

    def _whole(self, image: Image.Image) -> tuple[Tensor | Image.Image, Box]:
        if self.scale is None:
            return image, (0, 0, *image.size)
        return _pixels(image), self.draw(*image.size)

    def _decode(self, encoded: bytes) -> tuple[Tensor | Image.Image, Box]:
        with open_image(encoded) as header:
            is_jpeg = header.format in JPEG
            if not is_jpeg:
                header.load()  # Pillow turns TIFF images upright here, and removes their orientation
            turned = orientation(header)
            width, height = header.size if turned < 5 else header.size[::-1]
            box = self.draw(width, height)
            reduction = self._reduction(box) if is_jpeg else 1
            if reduction > 1:
                header.draft(None, (header.width // reduction, header.height // reduction))
                image = to_rgb(upright(header, turned), self.background)
                x, y = image.width / width, image.height / height
                return image, (box[0] * x, box[1] * y, box[2] * x, box[3] * y)
            if is_jpeg and header.mode in ("RGB", "L") and turned == 1:
                pixels = _decode(encoded)
                if pixels is not None and pixels.shape[1:] == (height, width):
                    return pixels, box
            return _pixels(to_rgb(upright(header, turned), self.background)), box

    def resize(self, image: Tensor | Image.Image, box: Box) -> Tensor:
        """Resize the box of an image to (3, size, size), uint8, channels last in memory."""
        left, top, width, height = box
        if isinstance(image, Image.Image):  # the edges of the box may be fractions of pixels
            edges = left, top, min(left + width, image.width), min(top + height, image.height)
            return _pixels(image.resize((self.size, self.size), PILLOW[self.interpolation], box=edges))
        crop = image[None, :, top : top + height, left : left + width]
        crop = crop.contiguous(memory_format=torch.channels_last)  # then the result is channels last too
        return F.interpolate(crop, (self.size, self.size), **TORCH[self.interpolation])[0]

    def draw(self, width: int, height: int) -> Box:
        """Draw the box of a crop of an image of `width` x `height` pixels."""
        shape = torch.empty((height, width), device="meta")  # timm reads the size of an image or tensor
        top, left, h, w = RandomResizedCropAndInterpolation.get_params(shape, self.scale, self.ratio)
        return left, top, w, h

    def _reduction(self, box: Box) -> int:
        """Return the largest reduction that leaves the crop MARGIN times as large as the result; 1: none."""
        allowed = min(box[2:]) / (MARGIN * self.size)
        return next((reduction for reduction in REDUCTIONS if reduction <= allowed), 1)


def _decode(encoded: bytes) -> Tensor | None:
    """Decode a JPEG file with torchvision, (3, H, W); None if torchvision cannot read it."""
    try:
        return decode_jpeg(torch.frombuffer(bytearray(encoded), dtype=torch.uint8), ImageReadMode.RGB)
    except RuntimeError:
        return None


def _pixels(image: Image.Image) -> Tensor:
    """Return the pixels of an RGB image as a tensor (3, H, W), channels last in memory."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)
