"""Which classes a model takes for which, as a picture."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

NAMED = 40  # classes whose names fit beside the matrix
NUMBERED = 20  # classes whose counts fit into the cells


def write_confusion(labels: np.ndarray, predicted: np.ndarray, classes: Sequence[str], path: Path) -> None:
    """Draw the share of each true class (rows) predicted as each class (columns), and write it to `path` (PNG).

    Args:
        labels, predicted: (N,) class numbers; predictions of -1, where a logit was not a number, are left out.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    number = len(classes)
    decided = predicted >= 0
    counts = np.zeros((number, number), np.int64)
    np.add.at(counts, (labels[decided], predicted[decided]), 1)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)

    side = min(9.0, 2.5 + 0.32 * number)
    figure = Figure(figsize=(side + 0.8, side), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    image = axes.imshow(
        shares, cmap="Blues", vmin=0, vmax=1, interpolation="nearest" if number < 300 else "antialiased"
    )
    figure.colorbar(image, ax=axes, shrink=0.8, label="share of the true class")
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    if number <= NAMED:
        names = [name if len(name) <= 16 else name[:15] + "…" for name in classes]
        axes.set_xticks(range(number), names, rotation=90, fontsize=8, parse_math=False)
        axes.set_yticks(range(number), names, fontsize=8, parse_math=False)
    if number <= NUMBERED:
        for row, column in zip(*np.nonzero(counts), strict=True):
            color = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, str(counts[row, column]), ha="center", va="center", fontsize=7, color=color)
    beside = path.with_name(f".{path.name}.new")
    figure.savefig(beside, format="png")
    beside.replace(path)
