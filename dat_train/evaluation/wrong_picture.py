"""A picture of the mistakes a model is surest of."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dat_train.data.images import UnreadableImage, read_rgb
from dat_train.evaluation.metrics import Evaluation

if TYPE_CHECKING:
    from PIL.Image import Image

TILES = 24
COLUMNS = 6
TILE = 1.7  # inches
NAME = 20  # characters of a class' name


def most_confident_mistakes(evaluation: Evaluation, number: int) -> np.ndarray:
    """Positions in the evaluation's arrays of its most confident mistakes, surest first; equals in the set's order."""
    wrong = np.flatnonzero((evaluation.predicted != evaluation.labels) & (evaluation.predicted >= 0))
    return wrong[np.argsort(-evaluation.confidence[wrong], kind="stable")][:number]


def write_wrong_picture(
    evaluation: Evaluation,
    classes: Sequence[str],
    samples: Sequence[tuple[str, int]],
    path: Path,
    number: int = TILES,
) -> bool:
    """Write the `number` most confident mistakes with "true -> predicted 97 %" below each; False: there is none.

    Images are shown as they are in their files; one that has no file is left out. An older picture at `path` is removed
    when there is nothing to show.

    Args:
        samples: (path, label) by index in the set.
    """
    tiles = []
    for position in most_confident_mistakes(evaluation, number):
        image = _read(samples[evaluation.indices[position]][0])
        if image is not None:
            tiles.append((image, position))
    path.unlink(missing_ok=True)
    if not tiles:
        return False

    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(COLUMNS, len(tiles))
    rows = math.ceil(len(tiles) / columns)
    mistakes = int((evaluation.predicted != evaluation.labels).sum())
    figure = Figure(figsize=(columns * TILE, rows * (TILE + 0.45) + 0.5), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(f"surest mistakes: {len(tiles)} of {mistakes:,} in {evaluation.count:,} images", fontsize=10)
    for place, axes in enumerate(figure.subplots(rows, columns, squeeze=False).flat):
        axes.axis("off")
        if place < len(tiles):
            image, position = tiles[place]
            axes.imshow(image, interpolation="nearest" if max(image.size) < 64 else "antialiased")
            axes.set_title(_caption(evaluation, classes, position), fontsize=7, parse_math=False, pad=3)
    figure.savefig(path)
    return True


def _caption(evaluation: Evaluation, classes: Sequence[str], position: int) -> str:
    true, predicted = (_short(classes[int(numbers[position])]) for numbers in (evaluation.labels, evaluation.predicted))
    confidence = f"{100 * evaluation.confidence[position]:.0f} %"
    line = f"{true} → {predicted} {confidence}"
    return line if len(line) <= NAME + 6 else f"{true}\n→ {predicted} {confidence}"


def _short(name: str) -> str:
    return name if len(name) <= NAME else name[: NAME - 1] + "…"


def _read(path: str) -> Image | None:
    """The image, small enough for its tile."""
    try:
        image = read_rgb(path)
    except (UnreadableImage, OSError):
        return None
    image.thumbnail((320, 320))
    return image
