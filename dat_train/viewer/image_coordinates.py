"""Conversion between positions on feature maps and pixels of the model's input.

A cell of a feature map with reduction r covers r x r input pixels. Sampling positions are (y, x) in [-1, 1]; -1 and 1
are the *centers* of the border cells (align_corners=True). Pixels are (x, y) from the upper left corner of the input;
the center of the first pixel is (0.5, 0.5).
"""

import numpy as np


def position_to_pixel(positions: np.ndarray, size: tuple[int, int], reduction: int) -> np.ndarray:
    """(..., 2) sampling positions (y, x) on a map of `size` (H, W) -> (..., 2) pixels (x, y) of the input."""
    cells = (positions + 1) / 2 * (np.array(size) - 1)
    return ((cells + 0.5) * reduction)[..., ::-1]


def query_pixels(size: tuple[int, int], reduction: int) -> np.ndarray:
    """(H * W, 2) pixels (x, y) at the center of each query's cell, in row-major order."""
    y, x = np.meshgrid(*(np.arange(n) + 0.5 for n in size), indexing="ij")
    return np.stack([x, y], axis=-1).reshape(-1, 2) * reduction


def nearest_query(pixel: np.ndarray, size: tuple[int, int], reduction: int) -> int:
    """Number of the query whose cell contains, or is nearest to, the pixel (x, y)."""
    column, row = np.floor(np.asarray(pixel) / reduction).astype(int)
    return int(np.clip(row, 0, size[0] - 1) * size[1] + np.clip(column, 0, size[1] - 1))


def splat(weights: np.ndarray, positions: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Distribute `weights` at `positions` to the cells of a map: the transpose of bilinear sampling.

    Each position contributes to up to four cells, with the coefficients of bilinear interpolation. Contributions
    outside the map, where sampling reads zeros, are lost: the sum over the map is the weight inside.

    Args:
        weights: (N,); positions: (N, 2), (y, x) in [-1, 1].
        size: (H, W).

    Returns:
        (H, W)
    """
    height, width = size
    cells = (positions + 1) / 2 * (np.array(size) - 1)  # (N, 2)
    corner = np.floor(cells).astype(int)
    upper = cells - corner  # fraction of the distance to the next cell
    heat = np.zeros(size)
    for dy in (0, 1):
        for dx in (0, 1):
            row, column = corner[:, 0] + dy, corner[:, 1] + dx
            share = np.abs(1 - dy - upper[:, 0]) * np.abs(1 - dx - upper[:, 1])
            inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
            np.add.at(heat, (row[inside], column[inside]), (weights * share)[inside])
    return heat
