"""Where things on feature maps lie on the model's input, in its pixels.

A map of reduction r stands for the input in cells of r x r pixels. Sampling positions are (y, x) in [-1, 1], where -1
and 1 are the *centres* of the border cells, as sampling has it. Pixels count from the upper left corner of the input,
(x, y), so that the centre of the first pixel is (0.5, 0.5).
"""

import numpy as np


def position_to_pixel(positions: np.ndarray, size: tuple[int, int], reduction: int) -> np.ndarray:
    """(..., 2) sampling positions (y, x) on a map of `size` (H, W) -> (..., 2) pixels (x, y) of the input."""
    cells = (positions + 1) / 2 * (np.array(size) - 1)
    return ((cells + 0.5) * reduction)[..., ::-1]


def query_pixels(size: tuple[int, int], reduction: int) -> np.ndarray:
    """(H * W, 2) pixels (x, y): the middle of each query's cell, in the order of the queries."""
    y, x = np.meshgrid(*(np.arange(n) + 0.5 for n in size), indexing="ij")
    return np.stack([x, y], axis=-1).reshape(-1, 2) * reduction


def nearest_query(pixel: np.ndarray, size: tuple[int, int], reduction: int) -> int:
    """The query whose cell holds, or is next to, the pixel (x, y)."""
    column, row = np.floor(np.asarray(pixel) / reduction).astype(int)
    return int(np.clip(row, 0, size[0] - 1) * size[1] + np.clip(column, 0, size[1] - 1))


def splat(weights: np.ndarray, positions: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """How much of `weights` each cell of a map gets when sampling at `positions` takes it from there.

    Bilinear sampling takes a key from up to four cells; this gives each of them its share. What is sampled outside the
    map, where sampling finds zeros, is in no cell: the sum over the map is the weight that stayed inside.

    Args:
        weights: (N,); positions: (N, 2), (y, x) in [-1, 1].
        size: (H, W).

    Returns:
        (H, W)
    """
    height, width = size
    cells = (positions + 1) / 2 * (np.array(size) - 1)  # (N, 2)
    corner = np.floor(cells).astype(int)
    upper = cells - corner  # how far towards the next cell
    heat = np.zeros(size)
    for dy in (0, 1):
        for dx in (0, 1):
            row, column = corner[:, 0] + dy, corner[:, 1] + dx
            share = np.abs(1 - dy - upper[:, 0]) * np.abs(1 - dx - upper[:, 1])
            inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
            np.add.at(heat, (row[inside], column[inside]), (weights * share)[inside])
    return heat
