"""PNG pictures of sampling points, attention, heat maps, traced points and predictions."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from dat_train.runtime.display_text import one_line
from dat_train.runtime.figure_file import save_figure
from dat_train.viewer.attention import Inspection
from dat_train.viewer.panels import (
    COLORS,
    color,
    draw_arrows,
    draw_circles,
    draw_legend,
    draw_points,
    draw_query,
    new_panels,
    show_image,
)
from dat_train.viewer.tracing import trace

MAX_CLASSES = 5  # in predictions.png


def write_points(inspection: Inspection, folder: Path) -> list[Path]:
    """Write points.png (all layers and groups) and points_stage3_block2.png, ... (one layer each, group by group)."""
    figure, panels = new_panels(len(inspection.layers), inspection)
    for axes, layer in zip(panels, inspection.layers, strict=True):
        keys = layer.points.shape[1]
        points = f"{keys} points" if layer.groups == 1 else f"{layer.groups} groups of {keys}"
        show_image(axes, inspection, f"{layer.title}: {points}")
        for group in range(layer.groups):
            draw_points(axes, layer, group)
    groups = max(layer.groups for layer in inspection.layers)
    marks = [(color(group), "o", f"group {group + 1}") for group in range(groups)]
    draw_legend(figure, [*marks, ("black", "x", "outside the map")])
    paths = [save_figure(figure, folder / "points.png")]
    for layer in inspection.layers:
        figure, panels = new_panels(layer.groups, inspection)
        for group, axes in enumerate(panels):
            outside = layer.outside()[group].mean()
            show_image(
                axes, inspection, f"{layer.title}, group {group + 1}" + (f", {outside:.0%} outside" if outside else "")
            )
            draw_arrows(axes, layer, group)
            draw_points(axes, layer, group)
        paths.append(save_figure(figure, folder / f"points_stage{layer.stage}_block{layer.block}.png"))
    return paths


def write_attention(inspection: Inspection, queries: Sequence[tuple[float, float]], path: Path) -> Path:
    """Draw one row for each query pixel (x, y): the keys of the last deformable layer of each stage.

    The area of a circle is the weight of the key, on the same scale in all panels. Heads are averaged within groups.
    """
    layers = inspection.last_of_stages()
    figure, panels = new_panels(len(queries) * len(layers), inspection, columns=len(layers))
    for axes, (query, layer) in zip(panels, [(q, layer) for q in queries for layer in layers], strict=True):
        index = layer.query_at(query)
        weights = layer.by_group([index])[:, 0] / layer.groups  # (groups, keys), summing to 1
        show_image(axes, inspection, f"{layer.title}: largest weight {weights.max():.1%}")
        for group in range(layer.groups):
            draw_circles(axes, inspection, layer.points[group], weights[group], color(group))
        draw_query(axes, layer.queries[index])
    return save_figure(figure, path)


def write_heat(inspection: Inspection, path: Path) -> Path:
    """Draw the image and heat maps of the attention received by each position, over all layers and in each layer."""
    figure, panels = new_panels(2 + len(inspection.layers), inspection)
    show_image(panels[0], inspection, "input of the model", dimmed=0)
    maps = [("all layers", inspection.heat(), None)]
    maps += [(layer.title, inspection.on_pixels(layer, layer.heat()), layer) for layer in inspection.layers]
    for axes, (title, heat, layer) in zip(panels[1:], maps, strict=True):
        inside = "" if layer is None else f": {min(layer.heat().sum(), 1):.0%} inside"
        show_image(axes, inspection, title + inside, dimmed=0, gray=True)
        height, width = heat.shape
        axes.imshow(heat, extent=(0, width, height, 0), cmap="inferno", alpha=0.65, vmin=0, interpolation="bilinear")
    return save_figure(figure, path)


def write_traced(inspection: Inspection, queries: Sequence[tuple[float, float]], path: Path) -> Path:
    """Draw, for each query, its keys in the last stage and the traced keys of the earlier stages (`trace`)."""
    layers = inspection.last_of_stages()
    figure, panels = new_panels(len(queries), inspection)
    traces = trace(layers, np.array(queries, float)[:, None])
    for axes, query, levels in zip(panels, queries, traces, strict=True):
        show_image(axes, inspection, f"from x {query[0]:.0f}, y {query[1]:.0f}")
        for above, level in pairwise(levels):
            ends = np.stack([above.points[level.parents], level.points], axis=-1)  # (N, xy, ends)
            axes.plot(*ends.transpose(1, 2, 0), color="white", linewidth=0.5, alpha=0.35, zorder=1)
        for depth in range(len(levels) - 1, 0, -1):  # the last level is drawn first, below the others
            level = levels[depth]
            draw_circles(
                axes, inspection, level.points, level.weights / level.weights.sum(), COLORS[depth - 1], alpha=0.7
            )
        draw_query(axes, query)
    draw_legend(figure, [(COLORS[depth], "o", f"stage {layer.stage}") for depth, layer in enumerate(reversed(layers))])
    return save_figure(figure, path)


def write_predictions(inspection: Inspection, classes: Sequence[str], path: Path) -> Path:
    """Draw the image and the most probable classes with their probabilities."""
    figure, (picture, bars) = new_panels(2, inspection)
    show_image(picture, inspection, "input of the model", dimmed=0)
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
