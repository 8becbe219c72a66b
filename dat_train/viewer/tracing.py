"""From one query at the top of the pyramid back to the places on the image it draws on."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from dat_train.viewer.attention import Layer

MOST_POINTS = 64  # the heaviest of a level, from which the next one goes on


class Traced(NamedTuple):
    """The points of one level: (N, 2) pixels (x, y); (N,) weights; (N,) the point of the level above each came from."""

    points: np.ndarray
    weights: np.ndarray
    parents: np.ndarray


def trace_back(layers: Sequence[Layer], query: Sequence[float], keys: int = 8) -> list[Traced]:
    """Follow attention from a query down through `layers`: its heaviest keys, the heaviest keys of these, and so on.

    A key lies somewhere on its layer's map; in the layer before, the query whose cell is there stands for it. Weights
    multiply along the way. What the residual stream and other layers carry along is left out, so this shows
    where information was fetched from, not all that arrived. Source: CVPR 2022, the multi-level points of its figures.

    Args:
        layers: from the first to the last, e.g. the last deformable one of each stage.
        query: pixel (x, y) of the input.
        keys: heaviest keys of each point to follow, over all groups; a key's weight is the mean over all heads.

    Returns:
        a level for each layer, beginning with the query itself: the last layer's keys come second, the first's last.
    """
    levels = [Traced(np.array([query], float), np.ones(1), np.zeros(1, int))]
    for layer in reversed(layers):
        attention = layer.by_group() / layer.groups  # (groups, queries, keys); over groups and keys it sums to 1
        points = layer.points.reshape(-1, 2)
        found: dict[int, tuple[float, int, float]] = {}  # place -> its weight so far, heaviest parent, that one's share
        for parent, (pixel, weight) in enumerate(zip(levels[-1].points, levels[-1].weights, strict=True)):
            shares = weight * attention[:, layer.query_at(pixel)].reshape(-1)
            for place in np.argsort(-shares, kind="stable")[:keys].tolist():
                total, heaviest, most = found.get(place, (0.0, parent, 0.0))
                share = float(shares[place])
                found[place] = (total + share, *((parent, share) if share > most else (heaviest, most)))
        kept = sorted(found, key=lambda place: -found[place][0])[:MOST_POINTS]
        levels.append(
            Traced(
                points[kept],
                np.array([found[place][0] for place in kept]),
                np.array([found[place][1] for place in kept], int),
            )
        )
    return levels


def attended_spots(heat: np.ndarray, number: int = 3) -> list[tuple[float, float]]:
    """The pixels (x, y) with most attention, each a fifth of the picture from the others.

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
