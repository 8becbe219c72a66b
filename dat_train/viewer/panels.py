"""Panels of the viewer's figures: the input of the model with points, circles, arrows and a legend."""

import math
from collections.abc import Sequence

import numpy as np

from dat_train.runtime.figure_file import DPI, new_figure
from dat_train.viewer.attention import Inspection, Layer

PANEL = 3.0  # side of a panel, inches
COLUMNS = 4
AREA = 0.1  # total area of a query's circles, relative to the picture
MIN_WEIGHT = 0.002  # keys with smaller weights are not drawn

# colors of groups: the palette of Okabe and Ito, which is safe for color-blind readers
COLORS = ("#e69f00", "#56b4e9", "#f0e442", "#cc79a7", "#009e73", "#d55e00", "#0072b2", "#ffffff")


def color(group: int) -> str:
    """Color of a group. The 9th group has the color of the first."""
    return COLORS[group % len(COLORS)]


def new_panels(number: int, inspection: Inspection, columns: int = COLUMNS, side: float = PANEL) -> tuple:
    """A figure with `number` panels in the shape of the image, and their axes.

    Args:
        side: long side of a panel, inches.
    """
    columns = min(columns, number)
    rows = math.ceil(number / columns)
    height, width = inspection.image.shape[:2]
    unit = side / max(height, width)
    figure = new_figure(columns * width * unit, rows * (height * unit + 0.25))
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes in panels[number:]:
        axes.remove()
    return figure, panels[:number]


def show_image(
    axes,
    inspection: Inspection,
    title: str,
    *,
    dimmed: float = 0.25,
    gray: bool = False,
    picture: np.ndarray | None = None,
) -> None:
    """Show the input of the model, darkened by `dimmed`. Small images keep sharp pixels.

    Args:
        picture: (h, w, 3) uint8 to show instead, with the aspect ratio of the input.
    """
    height, width = inspection.image.shape[:2]
    image = (inspection.image if picture is None else picture) / 255 * (1 - dimmed)
    if gray:
        image = np.repeat(image.mean(-1, keepdims=True), 3, axis=-1)
    sharp = max(image.shape) < PANEL * DPI / 2
    axes.imshow(image, extent=(0, width, height, 0), interpolation="nearest" if sharp else "antialiased")
    axes.set_title(title, loc="left", fontsize=8, parse_math=False)
    margin = 0.02 * max(height, width)  # for points on the border
    axes.set_xlim(-margin, width + margin)
    axes.set_ylim(height + margin, -margin)
    axes.axis("off")


def draw_points(axes, layer: Layer, group: int) -> None:
    """Draw the deformed points, those outside the map as crosses."""
    points, outside = layer.points[group], layer.outside()[group]
    size = _marker(layer)
    inside = points[~outside]
    axes.scatter(*inside.T, s=size, color=color(group), edgecolors="black", linewidths=0.4, zorder=3)
    axes.scatter(*points[outside].T, s=size, color=color(group), marker="x", linewidths=1, zorder=3)


def draw_arrows(axes, layer: Layer, group: int) -> None:
    """Draw the reference points, and arrows from them to the deformed points."""
    axes.scatter(*layer.reference.T, s=_marker(layer) / 3, color="white", edgecolors="black", linewidths=0.3, zorder=2)
    shift = layer.points[group] - layer.reference
    style = {"angles": "xy", "scale_units": "xy", "scale": 1, "width": 0.004, "headwidth": 4, "headlength": 5}
    axes.quiver(*layer.reference.T, *shift.T, color=color(group), alpha=0.9, zorder=2, **style)


def draw_circles(
    axes,
    inspection: Inspection,
    points: np.ndarray,
    weights: np.ndarray,
    fill,
    *,
    alpha: float = 0.65,
    least: float = MIN_WEIGHT,
) -> None:
    """Draw circles at `points` with areas proportional to `weights`; a total weight of 1 covers AREA of the picture.

    Points with a weight of at most `least` are not drawn.
    """
    from matplotlib.collections import EllipseCollection

    shown = weights > least
    height, width = inspection.image.shape[:2]
    diameters = 2 * np.sqrt(weights[shown] * AREA * width * height / np.pi)
    circles = EllipseCollection(
        diameters,
        diameters,
        np.zeros(len(diameters)),
        units="xy",
        offsets=points[shown],
        transOffset=axes.transData,
        facecolors=fill,
        edgecolors="black",
        linewidths=0.4,
        alpha=alpha,
        zorder=3,
    )
    axes.add_collection(circles)


def draw_legend(figure, entries: Sequence[tuple[str, str, str]]) -> None:
    """Draw a legend below the panels: (color, marker, text) of each entry."""
    from matplotlib.lines import Line2D

    style = {"linestyle": "", "markeredgecolor": "black", "markeredgewidth": 0.5}
    marks = [Line2D([], [], color=shade, marker=marker, label=text, **style) for shade, marker, text in entries]
    figure.legend(handles=marks, loc="outside lower center", ncols=len(marks), fontsize=8, frameon=False)


def draw_query(axes, pixel: Sequence[float]) -> None:
    axes.plot(*pixel, "*", markersize=11, markerfacecolor="#ff2d2d", markeredgecolor="white", zorder=4)


def _marker(layer: Layer) -> float:
    """Area of a point's marker in points squared, smaller for many points."""
    return float(np.clip(2000 / layer.points.shape[1], 6, 30))
