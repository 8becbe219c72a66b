"""Reading an image file, whatever it is, as RGB."""

import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps


class UnreadableImage(Exception):  # noqa: N818  says what it is
    """An image file that cannot be read."""

    def __init__(self, path: str, why: str) -> None:
        super().__init__(f"{path}: {why}")
        self.path = path


def read_rgb(path: str | Path) -> Image.Image:
    """The image at `path` as RGB, upright (EXIF orientation applied); of an animation the first frame.

    Greyscale, palette, CMYK, 16-bit and float images are converted, 16-bit ones by scaling; transparency is dropped.

    Raises:
        UnreadableImage: missing, truncated, no image, or a decompression bomb.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of large images; Pillow refuses bombs (over 179 megapixels)
            with Image.open(path) as image:
                return _to_rgb(ImageOps.exif_transpose(image))
    except Exception as error:  # damaged files raise almost anything, also struct.error and SyntaxError
        raise UnreadableImage(str(path), f"{type(error).__name__}: {error}") from error


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        return _scaled_to_8_bit(image).convert("RGB")
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # Pillow's own advice: a palette's transparency may be bytes
    return image.convert("RGB")


def _scaled_to_8_bit(image: Image.Image) -> Image.Image:
    """16-bit, 32-bit and float greyscale; Pillow's convert would clip at 255."""
    values = np.nan_to_num(np.asarray(image, dtype=np.float64))
    high = values.max(initial=0.0)
    if image.mode == "F":
        scale = 255.0 if high <= 1.0 else 1.0  # floats come as [0, 1] or as [0, 255]
    elif image.mode == "I" and high <= 255:
        scale = 1.0  # 8-bit values in 32-bit integers
    else:
        scale = 255.0 / 65535.0
    return Image.fromarray(np.clip(values * scale, 0, 255).round().astype(np.uint8))
