"""Reading an image file, whatever it is, as RGB."""

import io
import os
import stat
import warnings
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

NONBLOCK = getattr(os, "O_NONBLOCK", 0)  # a FIFO without a writer then opens at once; Windows has none
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
    """Text of `path` for logs and reports: bytes that are not UTF-8 become \\xNN, a newline becomes \\n."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return text if text.isprintable() else "".join(c if c.isprintable() or c == " " else repr(c)[1:-1] for c in text)


def read_rgb(source: str | Path | bytes, name: str | Path | None = None) -> Image.Image:
    """The image in `source` as RGB, upright (EXIF orientation applied); of an animation the first frame.

    Args:
        source: path of the file, or its content.
        name: for the error message; needed where `source` is the content.

    Greyscale, palette, CMYK, 16-bit and float images are converted, 16-bit ones by scaling; transparency is dropped.
    A damaged EXIF block does no harm.

    Raises:
        UnreadableImage: missing, truncated, no image, or a decompression bomb.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of large images; Pillow refuses bombs (over 179 megapixels)
            with _opened(source) as file, Image.open(file) as image:
                image.load()
                return _to_rgb(_upright(image))
    except Exception as error:  # damaged files raise almost anything, also struct.error and SyntaxError
        why = str(error) if isinstance(error, NotRegular) else f"{type(error).__name__}: {error}"
        raise UnreadableImage(name or source, why) from error


class NotRegular(Exception):  # noqa: N818  states the fact
    """A FIFO, socket, device or folder in place of an image file."""


def _opened(source: str | Path | bytes) -> BinaryIO:
    """Open a regular file. Opening or reading a FIFO or a device could wait for ever."""
    if isinstance(source, bytes):
        return io.BytesIO(source)
    file = open(source, "rb", opener=lambda path, flags: os.open(path, flags | NONBLOCK))  # noqa: SIM115
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise NotRegular("not a regular file")
    return file


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
