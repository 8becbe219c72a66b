"""Pictures of scenes: label maps in color, boxes and masks of objects, grids of pictures."""

import colorsys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.patches import Patch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from dat_train.models.detection.boxes import Detections
from dat_train.models.detection.masks import paste_masks
from dat_train.models.segmentation import IGNORED
from dat_train.runtime.display_text import NAME_WIDTH, one_line
from dat_train.runtime.figure_file import new_figure, save_figure

BACKGROUND = "background"  # pixels of a class of this name are not colored
FONT = str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf")
ALPHA = 0.55  # weight of the colors of an overlay
SHORT_SIDE = 320  # smaller pictures are enlarged
MAX_TAGS = 16  # maximum number of names in the areas of a picture
LEAST_AREA = 0.004  # smallest area with a name, as a fraction of the picture


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


def overlay(image: Image.Image, labels: np.ndarray, classes: Sequence[str]) -> Image.Image:
    """Image with an overlay of the colors of its classes. Background and ignored pixels are unchanged.

    Args:
        labels: (H, W) class numbers, 255 ignored.
        classes: names by class number.
    """
    pixels = np.asarray(image.convert("RGB"), np.float32)
    colors = palette(len(classes))[labels.astype(np.uint8)].astype(np.float32)
    plain = labels == IGNORED
    if BACKGROUND in classes:
        plain |= labels == list(classes).index(BACKGROUND)
    mixed = np.where(plain[..., None], pixels, (1 - ALPHA) * pixels + ALPHA * colors)
    return Image.fromarray(mixed.round().astype(np.uint8))


class Area(NamedTuple):
    """Connected pixels of one class: their number, their rows and columns in the label map, and a mask inside these."""

    pixels: int
    label: int
    rows: slice
    columns: slice
    mask: np.ndarray


def connected_areas(labels: np.ndarray, classes: Sequence[str]) -> Iterator[Area]:
    """Areas of a label map (H, W), without background and ignored pixels."""
    from scipy.ndimage import find_objects, label

    for number in np.unique(labels[labels != IGNORED]).tolist():
        if classes[number] != BACKGROUND:
            parts, _ = label(labels == number)
            for k, place in enumerate(find_objects(parts), start=1):
                mask = parts[place] == k
                yield Area(int(mask.sum()), number, *place, mask)


def named_overlay(image: Image.Image, labels: np.ndarray, classes: Sequence[str]) -> Image.Image:
    """`overlay` with the names of the largest areas written into them; small images are enlarged."""
    from scipy.ndimage import distance_transform_edt

    found = []  # pixels, middle (x, y), class
    for area in connected_areas(labels, classes):
        part = np.pad(area.mask, 1)  # the border of the picture is a border of the area
        row, column = np.unravel_index(np.argmax(distance_transform_edt(part)), part.shape)
        found.append((area.pixels, (area.columns.start + column - 0.5, area.rows.start + row - 0.5), area.label))
    picture, factor = _enlarged(overlay(image, labels, classes))
    draw, font = ImageDraw.Draw(picture), _font(picture)
    colors = palette(len(classes))
    largest = sorted((part for part in found if part[0] >= LEAST_AREA * labels.size), reverse=True)[:MAX_TAGS]
    for _, (x, y), number in reversed(largest):
        _tag(draw, font, (x * factor, y * factor), one_line(classes[number], NAME_WIDTH), colors[number], anchor="mm")
    return picture


def draw_objects(
    image: Image.Image, boxes: Tensor, names: Sequence[str], labels: Sequence[int], masks: Tensor | None = None
) -> Image.Image:
    """Image with boxes, their names and, if given, masks, in the colors of their classes; small images are enlarged.

    Args:
        boxes: (N, 4) corners x1, y1, x2, y2 in pixels.
        labels: (N,) class numbers.
        masks: (N, H, W) bool.
    """
    colors = palette(max((int(label) for label in labels), default=0) + 1)
    pixels = np.array(image.convert("RGB"), np.float32)
    for mask, label in zip([] if masks is None else masks, labels, strict=False):
        chosen = np.asarray(mask.cpu(), bool)
        pixels[chosen] = 0.5 * pixels[chosen] + 0.5 * colors[int(label)]
    picture, factor = _enlarged(Image.fromarray(pixels.round().astype(np.uint8)))
    draw, font = ImageDraw.Draw(picture), _font(picture)
    width = max(2, min(picture.size) // 200)
    corners = (boxes.cpu() * factor).tolist()
    for (x1, y1, x2, y2), label in zip(corners, labels, strict=True):
        draw.rectangle((x1, y1, max(x1, x2), max(y1, y2)), outline=tuple(colors[int(label)].tolist()), width=width)
    for (x1, y1, _, _), label, name in zip(corners, labels, names, strict=True):
        above = y1 > font.size * 1.4
        _tag(draw, font, (x1, y1), one_line(name, NAME_WIDTH), colors[int(label)], anchor="lb" if above else "lt")
    return picture


def draw_detections(image: Image.Image, found: Detections, classes: Sequence[str], min_score: float) -> Image.Image:
    """Image with the detected boxes and masks with a score of at least `min_score`, best on top."""
    found = found.selected((found.scores >= min_score).nonzero()[:, 0].flip(0))
    masks = found.mask_logits and paste_masks(found.mask_logits, found.boxes, (image.height, image.width))
    labels = found.labels.tolist()
    names = [f"{classes[label]} {score:.2f}" for label, score in zip(labels, found.scores.tolist(), strict=True)]
    return draw_objects(image, found.boxes, names, labels, masks)


def _enlarged(image: Image.Image) -> tuple[Image.Image, int]:
    """The image, enlarged by a whole factor to a short side of at least SHORT_SIDE, and the factor."""
    factor = max(1, -(-SHORT_SIDE // min(image.size)))
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST), factor


def _font(picture: Image.Image) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(FONT, max(13, min(picture.size) // 24))


def _tag(
    draw: ImageDraw.ImageDraw, font, place: tuple[float, float], text: str, color: np.ndarray, *, anchor: str
) -> None:
    """Write text on a rectangle of a color, black or white for contrast; inside the picture.

    Args:
        place: pixel (x, y) of the rectangle's anchor: "lb" lower left, "lt" upper left corner, "mm" middle.
    """
    left, _, right, _ = font.getbbox(text)
    margin = max(2, font.size // 6)
    width, height = right - left + 2 * margin, font.size + 2 * margin
    x = place[0] - (width / 2 if anchor == "mm" else 0)
    y = place[1] - {"mm": height / 2, "lb": height, "lt": 0}[anchor]
    x = min(max(x, 0), max(draw.im.size[0] - width, 0))
    y = min(max(y, 0), max(draw.im.size[1] - height, 0))
    draw.rectangle((x, y, x + width, y + height), fill=tuple(color.tolist()))
    light = float(color @ np.array([0.299, 0.587, 0.114])) > 140
    draw.text((x + margin - left, y + height / 2), text, fill="black" if light else "white", font=font, anchor="lm")


def write_grid(
    pictures: Sequence[Image.Image],
    path: Path,
    columns: int,
    titles: Sequence[str] = (),
    legend: Mapping[str, np.ndarray] | None = None,
) -> None:
    """Write pictures side by side (PNG). The height of a row is that of its highest picture.

    Without pictures, an older file is removed.

    Args:
        legend: names and colors (RGB, 0 to 1).
    """
    if not pictures:
        path.unlink(missing_ok=True)
        return
    rows = -(-len(pictures) // columns)
    side = 2.6  # width of a picture, inches
    parts = [pictures[row * columns : (row + 1) * columns] for row in range(rows)]
    heights = [max(picture.height / picture.width for picture in part) for part in parts]
    heights = [side * min(height, 1.4) + 0.25 for height in heights]
    figure = new_figure(side * columns, sum(heights))
    axes = figure.subplots(rows, columns, squeeze=False, height_ratios=heights).ravel()
    for place in axes:
        place.axis("off")
    for place, picture in zip(axes, pictures, strict=False):
        place.imshow(picture, interpolation="nearest" if max(picture.size) < 200 else "antialiased")
    for place, title in zip(axes, titles, strict=False):
        place.set_title(title, fontsize=8)
    if legend:
        marks = [Patch(color=color, label=name) for name, color in legend.items()]
        figure.legend(handles=marks, loc="outside lower center", ncols=6, fontsize=7, frameon=False)
    save_figure(figure, path)
