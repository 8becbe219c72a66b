"""Pictures of what a model looked at: points, attention, heat, traced points, predictions; each a PNG."""

import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from dat_train.viewer.attention import Layer, Look
from dat_train.viewer.tracing import trace_back

PANEL = 3.0  # inches a side
DPI = 110
COLUMNS = 4  # panels side by side
SHOWN_CLASSES = 5
AREA = 0.1  # of all circles of a query together, of the picture's
FAINT = 0.002  # keys lighter than this are not drawn

# colours of groups: Okabe and Ito's, which people with colour-blindness tell apart, brightest on photographs first
COLOURS = ("#e69f00", "#56b4e9", "#f0e442", "#cc79a7", "#009e73", "#d55e00", "#0072b2", "#ffffff")


def colour(group: int) -> str:
    """Of a group; the 9th has the first's again."""
    return COLOURS[group % len(COLOURS)]


def write_points(look: Look, folder: Path) -> list[Path]:
    """Write points.png, all layers with the points of all groups, and points_stage3_block2.png, ..., group by group."""
    figure, panels = _panels(len(look.layers))
    for axes, layer in zip(panels, look.layers, strict=True):
        _show(axes, look, f"{layer.title}: {_count(layer)}")
        for group in range(layer.groups):
            _draw_points(axes, layer, group)
    groups = max(layer.groups for layer in look.layers)
    marks = [(colour(group), "o", f"group {group + 1}") for group in range(groups)]
    _legend(figure, [*marks, ("black", "x", "outside the map")])
    paths = [_save(figure, folder / "points.png")]
    for layer in look.layers:
        figure, panels = _panels(layer.groups)
        for group, axes in enumerate(panels):
            outside = layer.outside()[group].mean()
            _show(axes, look, f"{layer.title}, group {group + 1}" + (f", {outside:.0%} outside" if outside else ""))
            _draw_arrows(axes, layer, group)
            _draw_points(axes, layer, group)
        paths.append(_save(figure, folder / f"points_stage{layer.stage}_block{layer.block}.png"))
    return paths


def write_attention(look: Look, queries: Sequence[tuple[float, float]], path: Path) -> Path:
    """For each query pixel (x, y), a row: the keys of the last deformable layer of each stage, as circles whose area is
    their weight, on the same scale in all panels. Heads are averaged within their group."""
    layers = look.last_of_stages()
    figure, panels = _panels(len(queries) * len(layers), columns=len(layers))
    for axes, (query, layer) in zip(panels, [(q, layer) for q in queries for layer in layers], strict=True):
        index = layer.query_at(query)
        weights = layer.by_group()[:, index] / layer.groups  # (groups, keys), summing to 1
        _show(axes, look, f"{layer.title}: heaviest key {weights.max():.1%}")
        for group in range(layer.groups):
            _draw_circles(axes, look, layer.points[group], weights[group], colour(group))
        _draw_query(axes, layer.queries[index])
    return _save(figure, path)


def write_heat(look: Look, path: Path) -> Path:
    """The image, how much each place is attended to over all layers, and in each layer."""
    figure, panels = _panels(2 + len(look.layers))
    _show(panels[0], look, "the model's input", dimmed=0)
    maps = [("all layers", look.heat(), None)]
    maps += [(layer.title, look.on_pixels(layer, layer.heat()), layer) for layer in look.layers]
    for axes, (title, heat, layer) in zip(panels[1:], maps, strict=True):
        inside = "" if layer is None else f": {min(layer.heat().sum(), 1):.0%} inside"
        _show(axes, look, title + inside, dimmed=0, grey=True)
        height, width = heat.shape
        axes.imshow(heat, extent=(0, width, height, 0), cmap="inferno", alpha=0.65, vmin=0, interpolation="bilinear")
    return _save(figure, path)


def write_traced(look: Look, queries: Sequence[tuple[float, float]], path: Path) -> Path:
    """For each query, its heaviest keys in the last stage's last deformable layer, theirs in the stage before, ..."""
    layers = look.last_of_stages()
    figure, panels = _panels(len(queries))
    for axes, query in zip(panels, queries, strict=True):
        levels = trace_back(layers, query)
        _show(axes, look, f"from x {query[0]:.0f}, y {query[1]:.0f}")
        for above, level in pairwise(levels):
            starts = above.points[level.parents]
            lines = np.stack([starts, level.points], axis=1)  # (N, 2, 2)
            _draw_lines(axes, lines, "white", 0.5, alpha=0.35)
        for depth in range(len(levels) - 1, 0, -1):  # the deepest below
            level = levels[depth]
            _draw_circles(axes, look, level.points, level.weights / level.weights.sum(), COLOURS[depth - 1], 0.7)
        _draw_query(axes, query)
    _legend(figure, [(COLOURS[depth], "o", f"stage {layer.stage}") for depth, layer in enumerate(reversed(layers))])
    return _save(figure, path)


def write_predictions(look: Look, classes: Sequence[str], path: Path) -> Path:
    """The image, and the likeliest classes with their probabilities."""
    figure, (picture, bars) = _panels(2)
    _show(picture, look, "the model's input", dimmed=0)
    top = look.top(SHOWN_CLASSES)
    names = [classes[label] if len(classes[label]) <= 24 else classes[label][:23] + "…" for label, _ in top]
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
    return _save(figure, path)


# Figures


def _panels(number: int, columns: int = COLUMNS) -> tuple:
    """A figure with `number` square panels, and their axes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(columns, number)
    rows = math.ceil(number / columns)
    figure = Figure(figsize=(columns * PANEL, rows * (PANEL + 0.25)), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes in panels[number:]:
        axes.remove()
    return figure, panels[:number]


def _show(axes, look: Look, title: str, dimmed: float = 0.25, grey: bool = False) -> None:
    """The model's input, pixels sharp where they are few; `dimmed`, so that points stand out."""
    height, width = look.image.shape[:2]
    image = look.image / 255 * (1 - dimmed)
    if grey:
        image = np.repeat(image.mean(-1, keepdims=True), 3, axis=-1)
    sharp = max(height, width) < PANEL * DPI / 2
    axes.imshow(image, extent=(0, width, height, 0), interpolation="nearest" if sharp else "antialiased")
    axes.set_title(title, loc="left", fontsize=8)
    margin = 0.02 * max(height, width)  # for points that lie on the border
    axes.set_xlim(-margin, width + margin)
    axes.set_ylim(height + margin, -margin)
    axes.axis("off")


def _draw_points(axes, layer: Layer, group: int) -> None:
    """The shifted points; crosses are outside the map."""
    points, outside = layer.points[group], layer.outside()[group]
    size = _marker(layer)
    inside = points[~outside]
    axes.scatter(*inside.T, s=size, color=colour(group), edgecolors="black", linewidths=0.4, zorder=3)
    axes.scatter(*points[outside].T, s=size, color=colour(group), marker="x", linewidths=1, zorder=3)


def _draw_arrows(axes, layer: Layer, group: int) -> None:
    """The reference grid, and arrows from it to the shifted points."""
    axes.scatter(*layer.reference.T, s=_marker(layer) / 3, color="white", edgecolors="black", linewidths=0.3, zorder=2)
    shift = layer.points[group] - layer.reference
    style = {"angles": "xy", "scale_units": "xy", "scale": 1, "width": 0.004, "headwidth": 4, "headlength": 5}
    axes.quiver(*layer.reference.T, *shift.T, color=colour(group), alpha=0.9, zorder=2, **style)


def _draw_circles(axes, look: Look, points: np.ndarray, weights: np.ndarray, fill: str, alpha: float = 0.65) -> None:
    """Circles at `points` whose area is their weight; weights that sum to 1 cover AREA of the picture."""
    from matplotlib.collections import EllipseCollection

    shown = weights > FAINT
    height, width = look.image.shape[:2]
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
    """Below everything: (colour, marker, text) of each entry."""
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
    """Area of a point's marker, points squared: smaller where there are many."""
    return float(np.clip(2000 / layer.points.shape[1], 6, 30))


def _count(layer: Layer) -> str:
    keys = layer.points.shape[1]
    return f"{keys} points" if layer.groups == 1 else f"{layer.groups} groups of {keys}"


def _save(figure, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    return path
