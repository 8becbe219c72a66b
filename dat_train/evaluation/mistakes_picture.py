"""Picture of the most confident mistakes of a classifier."""

import contextlib
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dat_train.data.images import UnreadableImage, read_rgb
from dat_train.evaluation.classification import ClassificationEvaluation
from dat_train.runtime.display_text import one_line
from dat_train.runtime.figure_file import new_figure, save_figure

MAX_TILES = 24
COLUMNS = 6
TILE, GAP, TITLE, LINE = 1.6, 0.12, 0.35, 0.15  # inches: tile, space between tiles, title, line of a caption
MIN_WIDTH = 4.6  # inches, for the title
NAME_WIDTH = 20  # columns of a class name


def most_confident_mistakes(evaluation: ClassificationEvaluation, number: int) -> np.ndarray:
    """Positions, in the arrays of the evaluation, of the `number` mistakes with the highest confidence.

    Mistakes of equal confidence keep the order of the data set; images without a prediction (NaN) are last.
    """
    mistakes = np.flatnonzero(evaluation.predicted != evaluation.labels)
    return mistakes[np.argsort(-evaluation.confidence[mistakes], kind="stable")][:number]


def write_mistakes_picture(
    evaluation: ClassificationEvaluation,
    classes: Sequence[str],
    samples: Sequence[tuple[str, int]],
    path: Path,
    number: int = MAX_TILES,
) -> bool:
    """Draw the `number` most confident mistakes, each with true class, predicted class and confidence.

    Images that have no readable file are left out. Without any image to show, an older picture at `path` is removed.

    Args:
        samples: (path, label) by index in the data set.
        path: PNG file to write.

    Returns:
        False if there is nothing to show.
    """
    tiles = []
    for position in most_confident_mistakes(evaluation, number):
        if evaluation.predicted[position] < 0:
            break
        with contextlib.suppress(UnreadableImage, OSError):
            image = read_rgb(samples[evaluation.indices[position]][0])
            image.thumbnail((320, 320))
            tiles.append((image, position))
    path.unlink(missing_ok=True)
    if not tiles:
        return False

    columns = min(COLUMNS, len(tiles))
    rows = math.ceil(len(tiles) / columns)
    captions = [_caption(evaluation, classes, position) for _, position in tiles]
    below = LINE * max(caption.count("\n") + 1 for caption in captions) + GAP
    width, height = max(MIN_WIDTH, columns * (TILE + GAP) + GAP), TITLE + rows * (TILE + below)
    figure = new_figure(width, height, layout=None)
    count = int((evaluation.predicted != evaluation.labels).sum())
    title = f"{len(tiles)} most confident of {count:,} mistakes in {evaluation.count:,} images:  true → predicted"
    figure.text(GAP / width, 1 - TITLE / 2 / height, title, va="center", fontsize=9)
    for place, ((image, _), caption) in enumerate(zip(tiles, captions, strict=True)):
        left, top = GAP + place % columns * (TILE + GAP), TITLE + place // columns * (TILE + below)
        axes = figure.add_axes((left / width, 1 - (top + TILE) / height, TILE / width, TILE / height))
        axes.axis("off")
        axes.set_anchor("S")  # no space between a wide image and its caption
        axes.imshow(image, interpolation="nearest" if max(image.size) < 64 else "antialiased")
        middle, base = (left + TILE / 2) / width, 1 - (top + TILE + 0.05) / height
        figure.text(middle, base, caption, ha="center", va="top", fontsize=7.5, linespacing=1.25, parse_math=False)
    save_figure(figure, path)
    return True


def _caption(evaluation: ClassificationEvaluation, classes: Sequence[str], position: int) -> str:
    """Class names, each on its own line if they are long, and the confidence."""
    true, predicted = (
        one_line(classes[int(numbers[position])], NAME_WIDTH) for numbers in (evaluation.labels, evaluation.predicted)
    )
    line = f"{true} → {predicted}"
    names = line if len(line) <= NAME_WIDTH + 4 else f"{true}\n→ {predicted}"
    return f"{names}\n{100 * evaluation.confidence[position]:.0f} %"
