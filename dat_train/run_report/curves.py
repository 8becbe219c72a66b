"""Curves of a run: loss, validation score and learning rate over epochs, and statistics of offsets if measured."""

import json
import math
from collections.abc import Iterator, Sequence, Sized
from pathlib import Path

import numpy as np

from dat_train.run_report.metrics import number_format, score_name, title, unit
from dat_train.runtime.figure_file import new_figure, save_figure

POINTS = 2000  # points of a curve, more than the picture has columns of pixels
CHUNK = 1 << 20  # bytes read at a time
SMOOTHING = 0.03  # width of the moving average, relative to the length of the run
BLUE, ORANGE, GRAY = "#1f5fa8", "#d9731a", "#888888"
SHADES = ("#9ecae1", "#6baed6", "#3a8fc8", "#1f5fa8", "#5b2a86", "#2b0a3d")  # of layers, first to last
MAX_NAMED = 8  # layers up to which there is a legend


def write_curves(metrics: Path, path: Path, score: str | None = None) -> bool:
    """Draw the rows of metrics.jsonl and write them to `path` (PNG).

    Args:
        metrics: metrics.jsonl of a run of any task.
        score: metric to draw, such as "top1"; None: the first validation metric other than the loss.

    Returns:
        False if there is no row yet.
    """
    steps, validations = read_metrics(metrics)
    offsets = read_offsets(metrics)
    if not len(steps) and not validations:
        return False

    rows = 2 if offsets else 1
    figure = new_figure(11, 3.6 * rows)
    panels = figure.subplots(rows, 3, squeeze=False)
    loss_axes, score_axes, rate_axes = panels[0]
    _draw_loss(loss_axes, steps, validations)
    _draw_score(score_axes, validations, score or score_name({}, validations) or "score")
    _draw_rate(rate_axes, steps)
    if offsets:
        _draw_offsets(panels[1], offsets)
    end = max([*steps[-1:, 0], *(row["epoch"] for row in validations[-1:])])
    for axes in panels.flat:
        axes.set_xlabel("epoch")
        axes.set_xlim(0, 1.02 * end)
        axes.grid(alpha=0.25, linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    save_figure(figure, path)
    return True


def _draw_loss(axes, steps: np.ndarray, validations: list[dict]) -> None:
    axes.set_title("loss", loc="left", fontsize=10)
    sound = np.isfinite(steps[:, 1])
    epochs, losses = steps[sound, 0], steps[sound, 1]
    if len(losses):
        usual = 2 * max(np.median(losses[:5]), np.quantile(losses, 0.98))
        if losses.max() > 2 * usual:  # keep a single peak from determining the scale
            axes.set_ylim(0, usual)
        axes.plot(*thin_out(epochs, losses), color=BLUE, alpha=0.25, linewidth=0.7)
        epochs, losses = thin_out(epochs, smooth(losses), extremes=False)
        axes.plot(epochs, losses, marker=_marker(epochs), color=BLUE, linewidth=1.6, label="training")
    _draw_validations(
        axes, validations, {"val_loss": ("validation", ORANGE), "ema_val_loss": ("validation, EMA", GRAY)}
    )
    _legend(axes)


def _draw_score(axes, validations: list[dict], score: str) -> None:
    axes.set_title(f"validation {title(score)}" + (f",{unit(score)}" if unit(score) else ""), loc="left", fontsize=10)
    lines = {f"val_{score}": ("model", BLUE), f"ema_val_{score}": ("averaged weights (EMA)", ORANGE)}
    drawn = _draw_validations(axes, validations, lines)
    if not drawn:
        axes.text(0.5, 0.5, "no validation yet", ha="center", va="center", color=GRAY, transform=axes.transAxes)
        return
    name = f"ema_val_{score}" if f"ema_val_{score}" in drawn else f"val_{score}"
    epochs, values = _values(validations, name)
    best = int(np.argmax(values))
    label = f"best: {values[best]:{number_format(score)}}"
    axes.plot(epochs[best], values[best], "o", markersize=7, markerfacecolor="none", color=GRAY, label=label)
    _legend(axes, "lower right")


def _draw_rate(axes, steps: np.ndarray) -> None:
    epochs, rates = thin_out(steps[:, 0], steps[:, 2], extremes=False)
    highest = rates.max(initial=0.0)
    power = math.floor(math.log10(highest)) if highest > 0 else 0
    axes.set_title(f"learning rate, 1e{power}", loc="left", fontsize=10)
    axes.plot(epochs, rates / 10.0**power, marker=_marker(epochs), color=BLUE, linewidth=1.6)
    axes.set_ylim(bottom=0)


def _draw_offsets(panels: Sequence, offsets: list[dict]) -> None:
    """Draw a line for each deformable layer; deeper layers are darker."""
    titles = {
        "offset_length": "mean offset length, cells of the reference grid",
        "offset_at_limit": "points at the limit, %",
        "offset_outside": "points outside the map, %",
    }
    layers = [name.partition("/")[2] for name in offsets[0] if name.startswith("offset_length/")]
    for axes, (measure, text) in zip(panels, titles.items(), strict=True):
        axes.set_title(text, loc="left", fontsize=10)
        for place, layer in enumerate(layers):
            epochs, values = _values(offsets, f"{measure}/{layer}")
            values = np.array(values) * (1 if measure == "offset_length" else 100)
            epochs, values = thin_out(np.array(epochs), values, extremes=False)
            shade = SHADES[place * (len(SHADES) - 1) // max(len(layers) - 1, 1)]
            label = layer.replace(".", ", ").replace("stage", "stage ").replace("block", "block ")
            axes.plot(epochs, values, marker=_marker(epochs), color=shade, linewidth=1.3, label=label)
        axes.set_ylim(bottom=0)
    if len(layers) <= MAX_NAMED:
        _legend(panels[0])


def _draw_validations(axes, validations: list[dict], lines: dict[str, tuple[str, str]]) -> set[str]:
    """Draw each metric of `lines`; returns the names of those with values."""
    drawn = set()
    for name, (label, color) in lines.items():
        epochs, values = _values(validations, name)
        if len(values):
            axes.plot(epochs, values, marker=_marker(epochs), color=color, linewidth=1.3, label=label)
            drawn.add(name)
    return drawn


def _marker(points: Sized) -> str | None:
    """Dots for up to 60 points, which also make a single point visible."""
    return "." if len(points) <= 60 else None


def _legend(axes, place: str = "best") -> None:
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc=place, fontsize=8, frameon=False)


def _values(validations: list[dict], name: str) -> tuple[list[float], list[float]]:
    """(epochs, values) of the rows with a number."""
    rows = [row for row in validations if row.get(name) is not None]
    return [row["epoch"] for row in rows], [row[name] for row in rows]


def smooth(values: np.ndarray) -> np.ndarray:
    """Moving average over a window of SMOOTHING times the length. (N,) -> (N,)

    At the start, where the loss falls steeply, the window shrinks symmetrically. At the end it is one-sided, so that
    the line does not end in noise.
    """
    half = int(len(values) * SMOOTHING / 2)
    sums = np.concatenate([[0.0], np.cumsum(values)])
    place = np.arange(len(values))
    before = np.minimum(half, place)
    after = np.minimum(before, len(values) - 1 - place)
    return (sums[place + after + 1] - sums[place - before]) / (before + after + 1)


def thin_out(x: np.ndarray, y: np.ndarray, extremes: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """Select about 2 * POINTS of the points (x, y); x is ascending.

    Args:
        extremes: keep the lowest and highest y of every interval, so that no peak is lost; otherwise keep every n-th
            point and the last.
    """
    every = math.ceil(len(x) / POINTS)
    if every <= 1:
        return x, y
    if not extremes:
        keep = np.append(np.arange(0, len(x) - 1, every), len(x) - 1)
        return x[keep], y[keep]
    whole = len(x) // every * every
    stretches = y[:whole].reshape(-1, every)
    starts = np.arange(0, whole, every)
    keep = np.union1d(starts + stretches.argmin(1), starts + stretches.argmax(1))
    keep = np.union1d(keep, np.arange(whole, len(x)))
    return x[keep], y[keep]


def read_metrics(metrics: Path) -> tuple[np.ndarray, list[dict]]:
    """(N, 3) epoch, loss (NaN for a skipped step) and learning rate of every step, and the rows of validations."""
    steps, validations = [], []
    for row in _rows(metrics):
        if "loss" in row:
            steps.append((row["epoch"], math.nan if row["loss"] is None else row["loss"], row["lr"]))
        else:
            validations.append(row)
    return np.array(steps, dtype=np.float64).reshape(-1, 3), validations


def read_offsets(metrics: Path) -> list[dict]:
    """Rows of the steps with statistics of offsets (setting inspect.every)."""
    with metrics.open("rb") as file:
        return [json.loads(line) for line in file if b'"offset_length/' in line and line.endswith(b"\n")]


def _rows(metrics: Path) -> Iterator[dict]:
    """Complete rows. During a run, the last row may be incomplete and is skipped."""
    with metrics.open("rb") as file:
        while lines := file.readlines(CHUNK):
            if not lines[-1].endswith(b"\n"):
                lines.pop()
            yield from json.loads(b"[" + b",".join(lines) + b"]")  # three times as fast as parsing line by line
