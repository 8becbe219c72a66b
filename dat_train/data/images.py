"""Reading an image file, whatever it is, as RGB."""

import os
import warnings
from pathlib import Path

import numpy as np
from PIL import Image

ORIENTATION = 0x0112  # EXIF's tag
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class UnreadableImage(Exception):  # noqa: N818  says what it is
    """An image file that cannot be read; `path` can be printed, whatever bytes are in it."""

    def __init__(self, path: str | Path, why: str) -> None:
        self.path = printable(path)
        super().__init__(f"{self.path}: {why}")


def printable(path: str | Path) -> str:
    """`path` for logs and reports: bytes of a name that are no UTF-8 as \\xNN."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def read_rgb(path: str | Path) -> Image.Image:
    """The image at `path` as RGB, upright (EXIF orientation applied); of an animation the first frame.

    Greyscale, palette, CMYK, 16-bit and float images are converted, 16-bit ones by scaling; transparency is dropped.
    A damaged EXIF block does no harm.

    Raises:
        UnreadableImage: missing, truncated, no image, or a decompression bomb.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of large images; Pillow refuses bombs (over 179 megapixels)
            with Image.open(path) as image:
                image.load()
                return _to_rgb(_upright(image))
    except Exception as error:  # damaged files raise almost anything, also struct.error and SyntaxError
        raise UnreadableImage(path, f"{type(error).__name__}: {error}") from error


def _upright(image: Image.Image) -> Image.Image:
    """As EXIF's orientation says; Pillow's exif_transpose writes all of EXIF anew and fails where any of it is odd."""
    try:
        orientation = image.getexif().get(ORIENTATION)
    except Exception:  # the pixels are there already: it is the EXIF block that is damaged
        return image
    return image.transpose(UPRIGHT[orientation]) if orientation in UPRIGHT else image


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        return _scaled_to_8_bit(image).convert("RGB")
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # Pillow's own advice: a palette's transparency may be bytes
    return image.convert("RGB")


def _scaled_to_8_bit(image: Image.Image) -> Image.Image:
    """16-bit, 32-bit and float greyscale; Pillow's convert would clip at 255."""
    values = np.nan_to_num(np.asarray(image, dtype=np.float64), posinf=0.0, neginf=0.0)
    if image.mode.startswith("I;16"):
        white = 65535.0
    else:  # 32 bits say nothing of the range: the narrowest usual one that holds all values, or else their own
        usual = (1.0, 255.0, 65535.0) if image.mode == "F" else (255.0, 65535.0)
        high = values.max(initial=0.0)
        white = next((limit for limit in usual if high <= limit), high)
    return Image.fromarray(np.clip(values * (255.0 / white), 0, 255).round().astype(np.uint8))
