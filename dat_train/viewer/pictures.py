"""PNG pictures of sampling points, attention, heat maps, traced points and predictions."""

import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from dat_train.runtime.display_text import one_line
from dat_train.runtime.figure_file import DPI, new_figure, save_figure
from dat_train.viewer.attention import Inspection, Layer
from dat_train.viewer.tracing import trace_back

PANEL = 3.0  # side of a panel, inches
COLUMNS = 4
MAX_CLASSES = 5
AREA = 0.1  # total area of a query's circles, relative to the picture
MIN_WEIGHT = 0.002  # keys with smaller weights are not drawn

# colors of groups: the palette of Okabe and Ito, which is safe for color-blind readers
COLORS = ("#e69f00", "#56b4e9", "#f0e442", "#cc79a7", "#009e73", "#d55e00", "#0072b2", "#ffffff")


def color(group: int) -> str:
    """Color of a group. The 9th group has the color of the first."""
    return COLORS[group % len(COLORS)]


def write_points(inspection: Inspection, folder: Path) -> list[Path]:
    """Write points.png (all layers and groups) and points_stage3_block2.png, ... (one layer each, group by group)."""
    figure, panels = _panels(len(inspection.layers))
    for axes, layer in zip(panels, inspection.layers, strict=True):
        _show(axes, inspection, f"{layer.title}: {_count(layer)}")
        for group in range(layer.groups):
            _draw_points(axes, layer, group)
    groups = max(layer.groups for layer in inspection.layers)
    marks = [(color(group), "o", f"group {group + 1}") for group in range(groups)]
    _legend(figure, [*marks, ("black", "x", "outside the map")])
    paths = [save_figure(figure, folder / "points.png")]
    for layer in inspection.layers:
        figure, panels = _panels(layer.groups)
        for group, axes in enumerate(panels):
            outside = layer.outside()[group].mean()
            _show(
                axes, inspection, f"{layer.title}, group {group + 1}" + (f", {outside:.0%} outside" if outside else "")
            )
            _draw_arrows(axes, layer, group)
            _draw_points(axes, layer, group)
        paths.append(save_figure(figure, folder / f"points_stage{layer.stage}_block{layer.block}.png"))
    return paths


def write_attention(inspection: Inspection, queries: Sequence[tuple[float, float]], path: Path) -> Path:
    """Draw one row for each query pixel (x, y): the keys of the last deformable layer of each stage.

    The area of a circle is the weight of the key, on the same scale in all panels. Heads are averaged within groups.
    """
    layers = inspection.last_of_stages()
    figure, panels = _panels(len(queries) * len(layers), columns=len(layers))
    for axes, (query, layer) in zip(panels, [(q, layer) for q in queries for layer in layers], strict=True):
        index = layer.query_at(query)
        weights = layer.by_group()[:, index] / layer.groups  # (groups, keys), summing to 1
        _show(axes, inspection, f"{layer.title}: largest weight {weights.max():.1%}")
        for group in range(layer.groups):
            _draw_circles(axes, inspection, layer.points[group], weights[group], color(group))
        _draw_query(axes, layer.queries[index])
    return save_figure(figure, path)


def write_heat(inspection: Inspection, path: Path) -> Path:
    """Draw the image and heat maps of the attention received by each position, over all layers and in each layer."""
    figure, panels = _panels(2 + len(inspection.layers))
    _show(panels[0], inspection, "input of the model", dimmed=0)
    maps = [("all layers", inspection.heat(), None)]
    maps += [(layer.title, inspection.on_pixels(layer, layer.heat()), layer) for layer in inspection.layers]
    for axes, (title, heat, layer) in zip(panels[1:], maps, strict=True):
        inside = "" if layer is None else f": {min(layer.heat().sum(), 1):.0%} inside"
        _show(axes, inspection, title + inside, dimmed=0, grey=True)
        height, width = heat.shape
        axes.imshow(heat, extent=(0, width, height, 0), cmap="inferno", alpha=0.65, vmin=0, interpolation="bilinear")
    return save_figure(figure, path)


def write_traced(inspection: Inspection, queries: Sequence[tuple[float, float]], path: Path) -> Path:
    """Draw, for each query, its keys in the last stage and the traced keys of the stages before (`trace_back`)."""
    layers = inspection.last_of_stages()
    figure, panels = _panels(len(queries))
    for axes, query in zip(panels, queries, strict=True):
        levels = trace_back(layers, query)
        _show(axes, inspection, f"from x {query[0]:.0f}, y {query[1]:.0f}")
        for above, level in pairwise(levels):
            starts = above.points[level.parents]
            lines = np.stack([starts, level.points], axis=1)  # (N, 2, 2)
            _draw_lines(axes, lines, "white", 0.5, alpha=0.35)
        for depth in range(len(levels) - 1, 0, -1):  # the last level first, under the others
            level = levels[depth]
            _draw_circles(
                axes, inspection, level.points, level.weights / level.weights.sum(), COLORS[depth - 1], alpha=0.7
            )
        _draw_query(axes, query)
    _legend(figure, [(COLORS[depth], "o", f"stage {layer.stage}") for depth, layer in enumerate(reversed(layers))])
    return save_figure(figure, path)


def write_predictions(inspection: Inspection, classes: Sequence[str], path: Path) -> Path:
    """Draw the image and the most probable classes with their probabilities."""
    figure, (picture, bars) = _panels(2)
    _show(picture, inspection, "input of the model", dimmed=0)
    top = inspection.top(MAX_CLASSES)
    names = [one_line(classes[label], 24) for label, _ in top]
    shares = [100 * share for _, share in top]
    drawn = bars.barh(range(len(top)), shares, color="#1f5fa8", height=0.6)
    bars.bar_label(drawn, [f"{share:.1f} %" for share in shares], padding=3, fontsize=8)
    bars.set_yticks(range(len(top)), names, fontsize=8, parse_math=False)
    bars.set_xticks([])
    bars.set_xlim(0, 125)
    bars.invert_yaxis()
    bars.set_title("prediction", loc="left", fontsize=9)
    bars.set_box_aspect(1)
    bars.spines[["top", "right", "bottom"]].set_visible(False)
    return save_figure(figure, path)


# Figures


def _panels(number: int, columns: int = COLUMNS) -> tuple:
    """A figure with `number` square panels, and their axes."""
    columns = min(columns, number)
    rows = math.ceil(number / columns)
    figure = new_figure(columns * PANEL, rows * (PANEL + 0.25))
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes in panels[number:]:
        axes.remove()
    return figure, panels[:number]


def _show(axes, inspection: Inspection, title: str, dimmed: float = 0.25, grey: bool = False) -> None:
    """Show the input of the model, darkened by `dimmed`. Small images keep sharp pixels."""
    height, width = inspection.image.shape[:2]
    image = inspection.image / 255 * (1 - dimmed)
    if grey:
        image = np.repeat(image.mean(-1, keepdims=True), 3, axis=-1)
    sharp = max(height, width) < PANEL * DPI / 2
    axes.imshow(image, extent=(0, width, height, 0), interpolation="nearest" if sharp else "antialiased")
    axes.set_title(title, loc="left", fontsize=8)
    margin = 0.02 * max(height, width)  # for points on the border
    axes.set_xlim(-margin, width + margin)
    axes.set_ylim(height + margin, -margin)
    axes.axis("off")


def _draw_points(axes, layer: Layer, group: int) -> None:
    """Draw the deformed points; crosses are points outside the map."""
    points, outside = layer.points[group], layer.outside()[group]
    size = _marker(layer)
    inside = points[~outside]
    axes.scatter(*inside.T, s=size, color=color(group), edgecolors="black", linewidths=0.4, zorder=3)
    axes.scatter(*points[outside].T, s=size, color=color(group), marker="x", linewidths=1, zorder=3)


def _draw_arrows(axes, layer: Layer, group: int) -> None:
    """Draw the reference points, and arrows from them to the deformed points."""
    axes.scatter(*layer.reference.T, s=_marker(layer) / 3, color="white", edgecolors="black", linewidths=0.3, zorder=2)
    shift = layer.points[group] - layer.reference
    style = {"angles": "xy", "scale_units": "xy", "scale": 1, "width": 0.004, "headwidth": 4, "headlength": 5}
    axes.quiver(*layer.reference.T, *shift.T, color=color(group), alpha=0.9, zorder=2, **style)


def _draw_circles(
    axes, inspection: Inspection, points: np.ndarray, weights: np.ndarray, fill: str, alpha: float = 0.65
) -> None:
    """Draw circles at `points` with areas proportional to `weights`; a total weight of 1 covers AREA of the picture."""
    from matplotlib.collections import EllipseCollection

    shown = weights > MIN_WEIGHT
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


def _legend(figure, entries: Sequence[tuple[str, str, str]]) -> None:
    """Draw a legend below the panels: (color, marker, text) of each entry."""
    from matplotlib.lines import Line2D

    style = {"linestyle": "", "markeredgecolor": "black", "markeredgewidth": 0.5}
    marks = [Line2D([], [], color=shade, marker=marker, label=text, **style) for shade, marker, text in entries]
    figure.legend(handles=marks, loc="outside lower center", ncols=len(marks), fontsize=8, frameon=False)


def _draw_query(axes, pixel: Sequence[float]) -> None:
    axes.plot(*pixel, "*", markersize=11, markerfacecolor="#ff2d2d", markeredgecolor="white", zorder=4)


def _draw_lines(axes, lines: np.ndarray, shade: str, width: float, alpha: float) -> None:
    from matplotlib.collections import LineCollection

    axes.add_collection(LineCollection(lines, colors=shade, linewidths=width, alpha=alpha, zorder=1))


def _marker(layer: Layer) -> float:
    """Area of a point's marker in points squared, smaller for many points."""
    return float(np.clip(2000 / layer.points.shape[1], 6, 30))


def _count(layer: Layer) -> str:
    keys = layer.points.shape[1]
    return f"{keys} points" if layer.groups == 1 else f"{layer.groups} groups of {keys}"
