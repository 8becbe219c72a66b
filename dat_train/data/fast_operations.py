"""Faster equivalents of RandAugment's shears, translations and sharpness, the slowest of its operations in Pillow.

Pillow resamples every affine transform over 4 x 4 pixels. A shear or translation along one axis needs 4 x 1: the other
axis is not resampled. The formulas are Pillow's, with its truncation; results differ from it by 1 of 255 at most.
"""

from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from timm.data import auto_augment

ROUNDING = 1e-3  # added before truncation: in float32 a constant area could become smaller than the constant

Operation = Callable[..., Image.Image]


def shear_x(image: Image.Image, factor: float, **options) -> Image.Image:
    """Shift row y by factor * (y + 1/2) pixels."""
    if not _is_cubic(image, options):
        return auto_augment.shear_x(image, factor, **options)
    return _shift_rows(image, factor * (np.arange(image.height) + 0.5), options["fillcolor"])


def shear_y(image: Image.Image, factor: float, **options) -> Image.Image:
    """Shift column x by factor * (x + 1/2) pixels."""
    if not _is_cubic(image, options):
        return auto_augment.shear_y(image, factor, **options)
    turned = image.transpose(Image.Transpose.TRANSPOSE)
    return shear_x(turned, factor, **options).transpose(Image.Transpose.TRANSPOSE)


def translate_x_abs(image: Image.Image, pixels: float, **options) -> Image.Image:
    """Shift all rows by `pixels`."""
    if not _is_cubic(image, options):
        return auto_augment.translate_x_abs(image, pixels, **options)
    return _shift_rows(image, np.full(image.height, float(pixels)), options["fillcolor"])


def translate_y_abs(image: Image.Image, pixels: float, **options) -> Image.Image:
    """Shift all columns by `pixels`."""
    if not _is_cubic(image, options):
        return auto_augment.translate_y_abs(image, pixels, **options)
    turned = image.transpose(Image.Transpose.TRANSPOSE)
    return translate_x_abs(turned, pixels, **options).transpose(Image.Transpose.TRANSPOSE)


def translate_x_rel(image: Image.Image, share: float, **options) -> Image.Image:
    """Shift all rows by `share` times the width."""
    return translate_x_abs(image, share * image.width, **options)


def translate_y_rel(image: Image.Image, share: float, **options) -> Image.Image:
    """Shift all columns by `share` times the height."""
    return translate_y_abs(image, share * image.height, **options)


def sharpness(image: Image.Image, factor: float, **_options) -> Image.Image:
    """Blend an image with its blurred copy (3 x 3 pixels, weight 5 in the center); factor 1 changes nothing."""
    if image.mode != "RGB" or min(image.size) < 3:
        return auto_augment.sharpness(image, factor)
    pixels = torch.from_numpy(np.array(image))  # (H, W, 3)
    inner = pixels[1:-1, 1:-1].to(torch.int16)
    wide = pixels.to(torch.int16)
    rows = wide[:-2] + wide[1:-1] + wide[2:]
    total = rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:] + 4 * inner
    blurred = (total * (1 / 13) + 0.5).floor_()
    pixels[1:-1, 1:-1] = torch.lerp(blurred, inner.float(), factor).clamp_(0, 255).to(torch.uint8)
    return Image.fromarray(pixels.numpy())


def _is_cubic(image: Image.Image, options: dict) -> bool:
    return image.mode == "RGB" and options.get("resample") == Image.Resampling.BICUBIC and "fillcolor" in options


def _shift_rows(image: Image.Image, offsets: np.ndarray, fill: tuple[int, int, int]) -> Image.Image:
    """Resample each row at x + offset with Pillow's cubic kernel; pixels from outside the image get the fill color.

    Pixels are packed in 4 bytes (R, G, B, unused), as in Pillow's own memory.

    Args:
        offsets: (H,), pixels.
    """
    height, width = image.height, image.width
    packed = np.frombuffer(image.tobytes("raw", "RGBX"), np.uint32).reshape(height, width)
    whole = np.floor(offsets).astype(np.int64)  # (H,)
    fraction = torch.from_numpy((offsets - whole).astype(np.float32))[:, None]  # (H, 1)

    # Interpolation takes the pixels x + whole - 1 ... x + whole + 2; outside, the pixels at the edge are repeated. Two
    # repeated pixels are enough: pixels further outside are replaced by the fill color below.
    margin = int(np.abs(whole).max()) + 3
    padded = np.zeros((height, width + 2 * margin), np.uint32)
    padded[:, margin : margin + width] = packed
    padded[:, margin - 2 : margin] = packed[:, :1]
    padded[:, margin + width : margin + width + 2] = packed[:, -1:]
    windows = np.lib.stride_tricks.sliding_window_view(padded, width + 3, axis=1)
    taken = windows[np.arange(height), whole - 1 + margin]  # (H, width + 3)

    taps = torch.from_numpy(taken.view(np.uint8)).float()  # (H, 4 * (width + 3))
    d = fraction
    weights = (d * (2 - d) - 1) * d, 1 - d * d * (2 - d), (1 + d * (1 - d)) * d, d * d * (d - 1)  # of Pillow, a = -1
    result = taps[:, : 4 * width] * weights[0]
    for k in (1, 2, 3):
        result.addcmul_(taps[:, 4 * k : 4 * (k + width)], weights[k])
    result.add_(ROUNDING).clamp_(0, 255)
    result = result.numpy().astype(np.uint8)  # truncated, as in Pillow

    pixels = result.view(np.uint32)  # (H, W)
    centers = (np.arange(width) + 0.5)[None] + offsets[:, None]
    np.putmask(pixels, (centers < 0) | (centers >= width), np.frombuffer(bytes((*fill, 0)), np.uint32))
    return Image.frombytes("RGB", image.size, pixels.tobytes(), "raw", "RGBX")


FAST_OPERATIONS: dict[Operation, Operation] = {
    getattr(auto_augment, operation.__name__): operation
    for operation in (
        shear_x,
        shear_y,
        translate_x_abs,
        translate_y_abs,
        translate_x_rel,
        translate_y_rel,
        sharpness,
    )
}
