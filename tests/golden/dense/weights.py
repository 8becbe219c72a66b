"""Weights, labels, boxes and masks of the dense golden records, from formulas alone.

Adds to `formula_weight` of ../weights.py the buffers of BatchNorm.
"""

import numpy as np
import torch

from golden.weights import formula_weight


def dense_weight(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Parameter or buffer called `name` (the whole published name, `backbone.` included)."""
    if name.endswith("num_batches_tracked"):
        return np.zeros(shape, dtype=np.int64)
    x = np.asarray(formula_weight(name, shape), dtype=np.float32)
    if name.endswith("running_mean"):
        return np.float32(0.1) * x
    if name.endswith("running_var"):
        return 1 + np.float32(0.1) * np.abs(x)
    return x


def dense_state_dict(record: dict) -> dict[str, torch.Tensor]:
    """State dict, under the published names, of one dense record."""
    return {
        name: torch.from_numpy(np.asarray(dense_weight(name, tuple(shape)))) for name, shape in record["state"].items()
    }


def labels(n: int, height: int, width: int, classes: int) -> torch.Tensor:
    """Label maps of the segmentation records, (n, height, width) int64, 255 ignored."""
    i, y, x = np.meshgrid(np.arange(n), np.arange(height), np.arange(width), indexing="ij")
    values = (y // 8 + 2 * (x // 16) + 3 * i) % classes
    values[(3 * y + 5 * x + i) % 13 == 0] = 255
    return torch.from_numpy(values)


def masks(boxes: list[list[float]], height: int, width: int) -> torch.Tensor:
    """The ellipse inscribed in each box, (boxes, height, width) bool: pixel centers inside or on it."""
    y, x = np.mgrid[0:height, 0:width] + 0.5
    return torch.from_numpy(
        np.stack(
            [
                ((x - (x1 + x2) / 2) / ((x2 - x1) / 2)) ** 2 + ((y - (y1 + y2) / 2) / ((y2 - y1) / 2)) ** 2 <= 1
                for x1, y1, x2, y2 in boxes
            ]
        )
    )
