"""Picture of predicted objects or areas with the deformed points that their attention is traced to."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dat_train.runtime.figure_file import save_figure
from dat_train.viewer.attention import Inspection, Layer
from dat_train.viewer.panels import COLORS, draw_circles, draw_legend, new_panels, show_image
from dat_train.viewer.tracing import trace

SIDE = 3.4  # long side of a panel, inches
COLUMNS = 3
MAX_QUERIES = 16  # per region
SHARE = 0.4  # total area of a stage's circles, as in `draw_circles`
LEAST = 0.01  # points with a smaller fraction of the weight are not drawn


class Region(NamedTuple):
    """Predicted object, or area of a class.

    Attributes:
        name: class, and score of an object.
        box: (4,) corners x1, y1, x2, y2 in input pixels.
        mask: (H, W) bool in input pixels; None: the box is the region.
        color: RGB, 0 to 1.
    """

    name: str
    box: np.ndarray
    mask: np.ndarray | None
    color: tuple[float, float, float]

    def queries(self, layer: Layer) -> np.ndarray:
        """(N, 2) centers of up to MAX_QUERIES cells of the layer inside the region; its middle if there is none."""
        centers = layer.queries
        x1, y1, x2, y2 = self.box
        inside = (centers[:, 0] > x1) & (centers[:, 0] < x2) & (centers[:, 1] > y1) & (centers[:, 1] < y2)
        if self.mask is not None:
            height, width = self.mask.shape
            rows, columns = (centers[:, axis].astype(int).clip(0, side - 1) for axis, side in ((1, height), (0, width)))
            inside &= self.mask[rows, columns]
        chosen = centers[inside]
        if len(chosen) == 0:
            return self.middle()[None]
        return chosen[np.linspace(0, len(chosen) - 1, min(len(chosen), MAX_QUERIES)).round().astype(int)]

    def middle(self) -> np.ndarray:
        """(2,) pixel (x, y) of the region that is nearest to the center of its box."""
        center = np.array([(self.box[0] + self.box[2]) / 2, (self.box[1] + self.box[3]) / 2])
        if self.mask is None or not self.mask.any():
            return center
        pixels = np.argwhere(self.mask)[:, ::-1] + 0.5
        return pixels[np.argmin(((pixels - center) ** 2).sum(1))]


def write_scene(inspection: Inspection, predicted: np.ndarray, regions: Sequence[Region], path: Path) -> Path:
    """Draw the image, the prediction, and the deformed points with the traced attention of each region.

    Attention is traced from the queries inside a region through the last deformable layers of all stages (`trace`).
    The area of a circle is the weight; the circles of each stage have the same total area. Points outside the image,
    where zeros are sampled, are not drawn.

    Args:
        predicted: (h, w, 3) uint8 picture of the prediction, in the shape of the image.
        regions: objects or areas, in input pixels, the most important first.
    """
    layers = inspection.last_of_stages()
    traces = trace(layers, [region.queries(layers[-1]) for region in regions])
    single = len(regions) if len(regions) > 1 else 0
    figure, panels = new_panels(2 + bool(regions) + single, inspection, columns=COLUMNS, side=SIDE)
    show_image(panels[0], inspection, "input of the model", dimmed=0)
    show_image(panels[1], inspection, "predicted", dimmed=0, picture=predicted)
    shown = [list(zip(regions, traces, strict=True)), *([pair] for pair in zip(regions, traces, strict=True))]
    for axes, pairs in zip(panels[2:], shown, strict=False):
        title = f"points traced from {pairs[0][0].name}" if len(pairs) == 1 else "points traced from all regions"
        show_image(axes, inspection, title, dimmed=0.45)
        for region, levels in pairs:
            _draw_box(axes, region)
            for depth in range(len(levels) - 1, 0, -1):  # the first stage is drawn first, below the others
                level = levels[depth]
                weights = SHARE / len(pairs) * level.weights / level.weights.sum()
                weights = np.where(inspection.contains(level.points), weights, 0)
                draw_circles(
                    axes, inspection, level.points, weights, COLORS[depth - 1], alpha=0.75, least=LEAST * SHARE
                )
    if regions:
        draw_legend(
            figure, [(COLORS[depth], "o", f"stage {layer.stage}") for depth, layer in enumerate(reversed(layers))]
        )
    return save_figure(figure, path)


def _draw_box(axes, region: Region) -> None:
    from matplotlib.patches import Rectangle

    x1, y1, x2, y2 = region.box
    axes.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=region.color, linewidth=1.5, zorder=2))
