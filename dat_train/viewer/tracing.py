"""Tracing of attention from queries of the last stage back to positions in the image."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from dat_train.viewer.attention import Layer

MAX_POINTS = 64  # points per level that are kept: those with the largest weights


class TracedLevel(NamedTuple):
    """Points (N, 2) of one level in pixels (x, y), their weights (N,), and their parents (N,) in the level above."""

    points: np.ndarray
    weights: np.ndarray
    parents: np.ndarray


def trace(layers: Sequence[Layer], regions: Sequence[np.ndarray], keys: int = 8) -> list[list[TracedLevel]]:
    """Trace attention from the queries of each region through `layers`, from each point to its keys of largest weight.

    A key corresponds to the query of the preceding layer whose cell contains its position. The queries of a region have
    equal weights with the sum 1; weights are multiplied along the path. Residual connections and other layers are
    ignored, so the result shows sampled positions, not the complete information flow. The attention weights of a layer
    are computed once for all regions. Source: CVPR 2022, multi-level points in the figures.

    Args:
        layers: from the first to the last, for example the last deformable layer of each stage.
        regions: (N, 2) pixels (x, y) of the queries of each region.
        keys: number of keys to follow from each point, over all groups. A key's weight is the mean over all heads.

    Returns:
        For each region, one level for its queries, then one for each layer, from the last layer to the first.
    """
    traces = [
        [TracedLevel(np.asarray(pixels, float), np.full(len(pixels), 1 / len(pixels)), np.zeros(len(pixels), int))]
        for pixels in regions
    ]
    for layer in reversed(layers):
        queries = sorted({layer.query_at(pixel) for trace in traces for pixel in trace[-1].points})
        attention = layer.by_group(queries) / layer.groups  # (groups, queries, keys); over groups and keys it sums to 1
        rows = {query: attention[:, row].reshape(-1) for row, query in enumerate(queries)}
        for trace in traces:
            trace.append(_level_below(layer, trace[-1], rows, keys))
    return traces


def _level_below(layer: Layer, above: TracedLevel, rows: dict[int, np.ndarray], keys: int) -> TracedLevel:
    """Level of the keys of `layer` with the largest weights from the points of the level above.

    Args:
        rows: attention weights (groups * keys,) of each query that contains a point.
    """
    found: dict[int, tuple[float, int, float]] = {}  # key -> weight, parent of the largest part, that part
    for parent, (pixel, weight) in enumerate(zip(above.points, above.weights, strict=True)):
        shares = weight * rows[layer.query_at(pixel)]
        for place in np.argsort(-shares, kind="stable")[:keys].tolist():
            total, heaviest, most = found.get(place, (0.0, parent, 0.0))
            share = float(shares[place])
            found[place] = (total + share, *((parent, share) if share > most else (heaviest, most)))
    kept = sorted(found, key=lambda place: -found[place][0])[:MAX_POINTS]
    return TracedLevel(
        layer.points.reshape(-1, 2)[kept],
        np.array([found[place][0] for place in kept]),
        np.array([found[place][1] for place in kept], int),
    )


def most_attended_pixels(heat: np.ndarray, number: int = 3) -> list[tuple[float, float]]:
    """Pixels (x, y) with the most attention, separated by at least a fifth of the picture.

    Args:
        heat: (height, width)
    """
    height, width = heat.shape
    y, x = np.mgrid[:height, :width] + 0.5
    left = heat.copy()
    spots = []
    for _ in range(number):
        row, column = np.unravel_index(np.argmax(left), left.shape)
        spots.append((column + 0.5, row + 0.5))
        left[(np.hypot((y - row - 0.5) / height, (x - column - 0.5) / width)) < 0.2] = -1
    return spots
