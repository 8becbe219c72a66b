"""Line charts as SVG, for light and dark pages."""

import html
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

WIDTH, HEIGHT = 360, 220
LEFT, RIGHT, TOP, BOTTOM = 46, 10, 10, 34  # margins
# readable on light and dark pages
COLORS = ("#3b82c4", "#d9731a", "#2f9e5b", "#b05cc6", "#c94f4f", "#a98200", "#1aa3a3", "#8a8f98")


class Line(NamedTuple):
    """Line of a run: number of the run, x (N,) ascending, y (N,). NaN leaves a gap."""

    run: int
    x: np.ndarray
    y: np.ndarray


def color(run: int) -> str:
    return COLORS[run % len(COLORS)]


def line_chart(title: str, lines: Sequence[Line], names: Sequence[str], unit: str = "") -> str:
    """An <svg> with one line (class "run-N") for each run; "" without data.

    Args:
        names: names of all runs, by number.
        unit: unit of y, appended to numbers.
    """
    lines = [line for line in lines if np.isfinite(line.y).any()]
    if not lines:
        return ""
    y = np.concatenate([line.y[np.isfinite(line.y)] for line in lines])
    low, high = _range(y)
    end = max(float(line.x[-1]) for line in lines) or 1.0

    def place(x: float, y: float) -> tuple[float, float]:
        right = LEFT + (WIDTH - LEFT - RIGHT) * x / end
        return right, TOP + (HEIGHT - TOP - BOTTOM) * (1 - (y - low) / (high - low))

    parts = [f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.escape(title)}">']
    for value in ticks(low, high):
        _, at = place(0, value)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(f'<text x="{LEFT - 5}" y="{at + 4:.1f}" text-anchor="end">{_number(value)}</text>')
    for value in ticks(0, end):
        at, _ = place(value, low)
        parts.append(f'<text x="{at:.1f}" y="{HEIGHT - BOTTOM + 15}" text-anchor="middle">{_number(value)}</text>')
    parts.append(f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 4}" text-anchor="end">epoch</text>')
    for line in lines:
        last = line.y[np.isfinite(line.y)][-1]
        label = html.escape(f"{names[line.run]}: {_number(last)}{unit} at the end")
        parts.append(f'<g class="run-{line.run}" stroke="{color(line.run)}"><title>{label}</title>')
        parts += [_path([place(*point) for point in segment], color(line.run)) for segment in _segments(line)]
        parts.append("</g>")
    parts.append("</svg>")
    caption = html.escape(title + (f", {unit.strip()}" if unit else ""))
    return f"<figure><figcaption>{caption}</figcaption>{''.join(parts)}</figure>"


def ticks(low: float, high: float, number: int = 4) -> list[float]:
    """About `number` round values from low to high."""
    step = 10.0 ** math.floor(math.log10((high - low) / number))
    step *= next(factor for factor in (1, 2, 5, 10) if (high - low) / (step * factor) <= number + 1)
    return [round(i * step, 12) for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def _range(y: np.ndarray) -> tuple[float, float]:
    """Range of the y axis: without single peaks, and not empty if all values are equal."""
    low, high = float(y.min()), float(y.max())
    if len(y) > 50 and high > 3 * (usual := float(np.quantile(y, 0.98))) > 0:
        high = 1.5 * usual
    margin = 0.04 * (high - low) or 0.5 * abs(high) or 0.5
    return min(low - margin, 0.0) if 0 <= low < 0.3 * high else low - margin, high + margin


def _segments(line: Line) -> list[list[tuple[float, float]]]:
    """Lists of consecutive points, separated at gaps."""
    segments: list[list[tuple[float, float]]] = [[]]
    for x, y in zip(line.x.tolist(), line.y.tolist(), strict=True):
        if math.isfinite(y):
            segments[-1].append((x, y))
        elif segments[-1]:
            segments.append([])
    return [segment for segment in segments if segment]


def _path(points: list[tuple[float, float]], shade: str) -> str:
    """A line, or a dot for a single point."""
    points = [(x, min(max(y, 0), HEIGHT - BOTTOM)) for x, y in points]
    if len(points) == 1:
        return f'<circle cx="{points[0][0]:.1f}" cy="{points[0][1]:.1f}" r="2.5" fill="{shade}"/>'
    return f'<polyline points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in points)}"/>'


def _number(value: float) -> str:
    if value and (abs(value) < 1e-3 or abs(value) >= 1e5):
        return f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e")
    return f"{value:.4g}"
