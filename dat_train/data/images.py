"""Decoding of image files to RGB with Pillow, and replacement of unreadable images."""

import errno
import io
import os
import stat
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import BinaryIO, TypeVar

import numpy as np
from PIL import Image, PngImagePlugin

from dat_train.errors import UserError, printable

NONBLOCK = getattr(os, "O_NONBLOCK", 0)  # a FIFO without a writer then opens at once; Windows has none
Source = str | Path | bytes | BinaryIO  # a path, the encoded bytes, or a binary file open for reading

T = TypeVar("T")

MAX_REPLACEMENTS = 100  # consecutive unreadable files after which the storage itself is at fault
WHITE = (255, 255, 255)
SHORTAGES = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)  # of the system: file descriptors or memory
ORIENTATION = 0x0112  # EXIF tag
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
BITS_PER_SAMPLE, MAX_SAMPLE_VALUE = 258, 281  # TIFF tags
INTEGER_RANGES = (255, 4095, 65535)  # 8, 12 and 16 bits, each stored in integers of 16 or 32 bits

# Pillow refuses PNG files with a text of more than 1 MB, and texts of more than 64 MB in all. Only the second limit is
# kept: photo editors and image generators write histories of several MB, which are not needed to read the pixels.
PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY


class UnreadableImage(Exception):  # noqa: N818  names the state of the file
    """An image file that cannot be read or transformed; `path` is printable for any bytes in the name."""

    def __init__(self, path: str | Path, reason: str) -> None:
        self.path, self.reason = printable(path), reason
        super().__init__(f"{self.path}: {reason}")


def first_readable(read: Callable[[int], T], start: int, count: int) -> tuple[T, int, tuple[str, ...]]:
    """Read the image at index `start`, or else the next of `count` images that is readable.

    Returns:
        result of `read(index)`, that index, and the path of the image at `start` if it is unreadable (else empty).

    Raises:
        UserError: too many consecutive unreadable images.
    """
    errors: list[UnreadableImage] = []
    for step in range(min(count, MAX_REPLACEMENTS)):
        index = (start + step) % count
        try:
            return read(index), index, tuple(error.path for error in errors[:1])
        except UnreadableImage as error:
            errors.append(error)
    raise UserError(
        f"{len(errors)} consecutive images cannot be read, beginning with {errors[0].path}: check the disk; the last "
        f"reason is {' '.join(str(errors[-1]).split())}"
    )


def read_rgb(source: Source, name: str | Path | None = None, background: Sequence[int] = WHITE) -> Image.Image:
    """Decode an image as RGB, upright (EXIF orientation applied); the first frame of an animation.

    - Grayscale, palette and CMYK images are converted.
    - Transparent pixels are composited onto `background`.
    - Grayscale of 16 bits, 32 bits and floating point is scaled to 8 bits, see `_scale_to_8_bits`.
    - A damaged EXIF block is ignored.

    Args:
        source: path of the file, its content, or a binary file.
        name: for the error message, if `source` is not a path.
        background: R, G, B, 0 to 255.

    Raises:
        UnreadableImage: missing, not a regular file, truncated, not an image, or more than 179 megapixels (Pillow's
            limit against decompression bombs).
        OSError: see `image_error`.
    """
    try:
        with open_image(source) as image:
            image.load()
            return to_rgb(upright(image, orientation(image)), background)
    except Exception as error:  # damaged files raise many types, for example struct.error and SyntaxError
        raise image_error(name or source, error) from error


def image_error(source: Source, error: Exception) -> UnreadableImage | OSError:
    """Return the error to raise for an image that cannot be read or transformed because of `error`.

    This is an UnreadableImage with the name of the source and the reason, or an OSError if the system lacks file
    descriptors or memory: the file may be whole, and another image in its place would change the run.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in SHORTAGES:
            return OSError(cause.errno, cause.strerror, cause.filename)
        cause = cause.__cause__
    if isinstance(error, UnreadableImage):
        return UnreadableImage(_name(source), error.reason)
    reason = str(error).partition(" <_io.")[0]  # Pillow's message without the address of a buffer
    return UnreadableImage(
        _name(source), reason if isinstance(error, NotRegular) else f"{type(error).__name__}: {reason}"
    )


@contextmanager
def open_image(source: Source) -> Iterator[Image.Image]:
    """Open an image with Pillow, which reads the header only; a pipe or device is refused."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # DecompressionBombWarning of large photos, warnings of damaged metadata
        with _opened(source) as file, Image.open(file) as image:
            yield image


def read_bytes(source: Source) -> bytes:
    """Return the encoded bytes of an image."""
    if isinstance(source, bytes):
        return source
    with _opened(source) as file:
        return file.read()


class NotRegular(Exception):  # noqa: N818  names the kind of file
    """A FIFO, socket, device or folder in place of an image file."""


def _opened(source: Source) -> AbstractContextManager[BinaryIO]:
    """Open a regular file. Opening or reading a FIFO or a device could wait forever."""
    if isinstance(source, bytes):
        return io.BytesIO(source)
    if not isinstance(source, str | Path):
        return nullcontext(source)  # not closed: it belongs to the caller
    file = open(source, "rb", opener=lambda path, flags: os.open(path, flags | NONBLOCK))  # noqa: SIM115
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise NotRegular("not a regular file")
    return file


def orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 to 8; 1 (upright) if there is none or the EXIF block is damaged."""
    try:
        value = image.getexif().get(ORIENTATION)
    except Exception:  # EXIF only; the pixels are not affected
        return 1
    return value if value in UPRIGHT else 1


def upright(image: Image.Image, turned: int) -> Image.Image:
    """Apply an EXIF orientation. Pillow's exif_transpose also rewrites the EXIF block and fails if it is damaged."""
    return image.transpose(UPRIGHT[turned]) if turned in UPRIGHT else image


def to_rgb(image: Image.Image, background: Sequence[int] = WHITE) -> Image.Image:
    """Convert any mode to RGB; transparent pixels are composited onto `background`."""
    if image.mode.startswith("I") or image.mode == "F":
        return _scale_to_8_bits(image).convert("RGB")
    if not image.has_transparency_data:
        return image.convert("RGB")
    image = image.convert("RGBA")
    sheet = Image.new("RGBA", image.size, (*background, 255))
    return Image.alpha_composite(sheet, image).convert("RGB")


def _scale_to_8_bits(image: Image.Image) -> Image.Image:
    """Scale grayscale of 16 bits, 32 bits or floating point to 8 bits; Pillow's convert would clip at 255.

    White is the maximum that the file states (TIFF tags BitsPerSample and MaxSampleValue), or else the smallest of the
    usual ranges that contains all values: 255, 4095, 65535 for integers, 1 too for floats; or else the largest value.
    12-bit data in 16-bit files, as written by microscopes and X-ray detectors, therefore uses the full range.
    """
    values = np.nan_to_num(np.asarray(image, dtype=np.float64), posinf=0.0, neginf=0.0)
    high = values.max(initial=0.0)
    usual = (1, *INTEGER_RANGES) if image.mode == "F" else INTEGER_RANGES
    white = _stated_white(image, high) or next((limit for limit in usual if high <= limit), high)
    return Image.fromarray(np.clip(values * (255.0 / white), 0, 255).round().astype(np.uint8))


def _stated_white(image: Image.Image, high: float) -> int | None:
    """Return the maximum that a TIFF file states for its samples, if all values are in that range."""
    tags = getattr(image, "tag_v2", {})
    bits, largest = tags.get(BITS_PER_SAMPLE), tags.get(MAX_SAMPLE_VALUE)
    if isinstance(largest, tuple):
        largest = largest[0]
    if largest is None and bits and bits[0] in (10, 12, 14):
        largest = 2 ** bits[0] - 1
    return largest if image.mode != "F" and largest and high <= largest else None


def _name(source: Source) -> str | Path:
    """Return a name for messages: the path, the file's name, or "image"."""
    if isinstance(source, str | Path):
        return source
    name = getattr(source, "name", None)
    return name if isinstance(name, str) else "image"
