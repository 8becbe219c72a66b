"""A picture of the mistakes a model is surest of."""

from __future__ import annotations

import math
import warnings
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
TILE, GAP, TITLE, LINE = 1.6, 0.12, 0.35, 0.15  # inches: a tile, between two, the title, a line of a caption
NARROWEST = 4.6  # inches: the title has to fit
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
    """Write the `number` most confident mistakes with true → predicted, confidence below each; False: there is none.

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
    captions = [_caption(evaluation, classes, position) for _, position in tiles]
    below = LINE * max(caption.count("\n") + 1 for caption in captions) + GAP
    width, height = max(NARROWEST, columns * (TILE + GAP) + GAP), TITLE + rows * (TILE + below)
    figure = Figure(figsize=(width, height), dpi=110)
    FigureCanvasAgg(figure)
    title = f"the {len(tiles)} surest of {mistakes:,} mistakes in {evaluation.count:,} images:  true → predicted"
    figure.text(GAP / width, 1 - TITLE / 2 / height, title, va="center", fontsize=9)
    for place, ((image, _), caption) in enumerate(zip(tiles, captions, strict=True)):
        left, top = GAP + place % columns * (TILE + GAP), TITLE + place // columns * (TILE + below)
        axes = figure.add_axes((left / width, 1 - (top + TILE) / height, TILE / width, TILE / height))
        axes.axis("off")
        axes.set_anchor("S")  # a wide image stands on its caption
        axes.imshow(image, interpolation="nearest" if max(image.size) < 64 else "antialiased")
        middle, base = (left + TILE / 2) / width, 1 - (top + TILE + 0.05) / height
        figure.text(middle, base, caption, ha="center", va="top", fontsize=7.5, linespacing=1.25, parse_math=False)
    beside = path.with_name(f".{path.name}.new")
    with warnings.catch_warnings(action="ignore", category=UserWarning):  # a script the font lacks is drawn as boxes
        figure.savefig(beside, format="png")
    beside.replace(path)
    return True


def _caption(evaluation: Evaluation, classes: Sequence[str], position: int) -> str:
    """The names, on a line of their own each where they are long, and below them how sure the model was."""
    true, predicted = (_short(classes[int(numbers[position])]) for numbers in (evaluation.labels, evaluation.predicted))
    line = f"{true} → {predicted}"
    names = line if len(line) <= NAME + 4 else f"{true}\n→ {predicted}"
    return f"{names}\n{100 * evaluation.confidence[position]:.0f} %"


def _short(name: str) -> str:
    name = " ".join(name.split())
    return name if len(name) <= NAME else name[: NAME - 1] + "…"


def _read(path: str) -> Image | None:
    """The image, small enough for its tile."""
    try:
        image = read_rgb(path)
    except (UnreadableImage, OSError):
        return None
    image.thumbnail((320, 320))
    return image
