"""Confusion matrix as a picture."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dat_train.runtime.display_text import one_line
from dat_train.runtime.figure_file import new_figure, save_figure

MAX_NAMED = 40  # classes up to which the axes show class names
MAX_NUMBERED = 20  # classes up to which the cells show counts
NAME_WIDTH = 16  # columns of a class name


def write_confusion(labels: np.ndarray, predicted: np.ndarray, classes: Sequence[str], path: Path) -> None:
    """Draw the confusion matrix, normalized over each true class (row), and write it to `path` (PNG).

    Args:
        labels, predicted: (N,) class numbers. Predictions of -1 (a logit was NaN) are left out.
    """
    number = len(classes)
    known = predicted >= 0
    counts = np.zeros((number, number), np.int64)
    np.add.at(counts, (labels[known], predicted[known]), 1)
    write_confusion_counts(counts, classes, path)


def write_confusion_counts(counts: np.ndarray, classes: Sequence[str], path: Path) -> None:
    """Draw a confusion matrix as `write_confusion` does.

    Args:
        counts: (classes, classes) int64, by true and predicted class.
    """
    number = len(classes)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)

    side = min(9.0, 2.5 + 0.32 * number)
    figure = new_figure(side + 0.8, side)
    axes = figure.subplots()
    interpolation = "nearest" if number < 300 else "antialiased"
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, interpolation=interpolation)
    figure.colorbar(image, ax=axes, shrink=0.8, label="share of the true class")
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    if number <= MAX_NAMED:
        names = [one_line(name, NAME_WIDTH) for name in classes]
        axes.set_xticks(range(number), names, rotation=90, fontsize=8, parse_math=False)
        axes.set_yticks(range(number), names, fontsize=8, parse_math=False)
    if number <= MAX_NUMBERED and counts.max() < 100_000:
        for row, column in zip(*np.nonzero(counts), strict=True):
            color = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, str(counts[row, column]), ha="center", va="center", fontsize=7, color=color)
    save_figure(figure, path)
