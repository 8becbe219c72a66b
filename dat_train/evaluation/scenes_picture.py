"""Pictures of scenes: label maps in color, boxes and masks of objects, grids of pictures."""

import colorsys
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.utils import draw_bounding_boxes, draw_segmentation_masks

from dat_train.runtime.figure_file import new_figure, save_figure

IGNORED = 255
FONT = str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf")


def palette(number: int) -> np.ndarray:
    """(256, 3) uint8 colors: distinct ones for `number` classes, black for ignored pixels."""
    colors = np.zeros((256, 3), np.uint8)
    for i in range(number):
        hue, light = (i * 0.61803398875) % 1, (0.5, 0.65, 0.38)[i % 3]
        colors[i] = [round(255 * value) for value in colorsys.hls_to_rgb(hue, light, 0.75)]
    return colors


def label_picture(labels: np.ndarray, number: int) -> Image.Image:
    """Label map (H, W) as a palette picture; the pixel values are the class numbers."""
    picture = Image.fromarray(labels.astype(np.uint8)).convert("L")
    picture.putpalette(palette(number).ravel().tolist())
    return picture


def overlay(image: Image.Image, labels: np.ndarray, number: int, alpha: float = 0.55) -> Image.Image:
    """Image with its classes laid over it in color; ignored pixels stay as they are."""
    pixels = np.asarray(image.convert("RGB"), np.float32)
    colors = palette(number)[labels.astype(np.uint8)].astype(np.float32)
    mixed = np.where((labels == IGNORED)[..., None], pixels, (1 - alpha) * pixels + alpha * colors)
    return Image.fromarray(mixed.round().astype(np.uint8))


def draw_objects(
    image: Image.Image,
    boxes: Tensor,
    names: Sequence[str],
    masks: Tensor | None = None,
    scale: int | None = None,
) -> Image.Image:
    """Image with boxes (N, 4), their names and, if given, masks (N, H, W); small images are enlarged by `scale`.

    Args:
        scale: whole factor; None: such that the short side has at least 256 pixels.
    """
    factor = scale or max(1, -(-256 // min(image.size)))
    image = image.convert("RGB").resize((image.width * factor, image.height * factor), Image.NEAREST)
    picture = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    colors = [tuple(palette(len(names))[i].tolist()) for i in range(len(names))]
    if len(names) == 0:
        return image
    if masks is not None:
        large = masks.cpu().repeat_interleave(factor, 1).repeat_interleave(factor, 2)
        picture = draw_segmentation_masks(picture, large, alpha=0.45, colors=colors)
    size = max(14, min(image.size) // 16)
    picture = draw_bounding_boxes(
        picture, boxes.cpu() * factor, list(names), colors=colors, width=2, font=FONT, font_size=size
    )
    return Image.fromarray(picture.permute(1, 2, 0).numpy())


def denormalized(image: Tensor, mean: Sequence[float], std: Sequence[float]) -> Image.Image:
    """Normalized image (3, H, W) as a picture."""
    shape = (-1, 1, 1)
    values = image.float() * torch.tensor(std).view(shape) + torch.tensor(mean).view(shape)
    return Image.fromarray((values.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy())


def write_grid(pictures: Sequence[Image.Image], path: Path, columns: int, titles: Sequence[str] = ()) -> None:
    """Write pictures side by side (PNG)."""
    rows = -(-len(pictures) // columns)
    figure = new_figure(2.2 * columns, 2.3 * rows)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for place in axes:
        place.axis("off")
    for place, picture in zip(axes, pictures, strict=False):
        place.imshow(picture, interpolation="nearest" if max(picture.size) < 200 else "antialiased")
    for place, title in zip(axes, titles, strict=False):
        place.set_title(title, fontsize=8)
    save_figure(figure, path)
