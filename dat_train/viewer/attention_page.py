"""Interactive HTML page of one image's sampling points and attention (attention_page.js)."""

import base64
import html
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dat_train.runtime.display_text import one_line
from dat_train.runtime.html_page import picture_url, write_page
from dat_train.viewer.attention import Inspection, Layer
from dat_train.viewer.panels import COLORS

MAX_WEIGHTS = 6_000_000  # attention weights in one page, one byte each; 8 MB in base64


def write_attention_page(
    inspection: Inspection,
    predictions: Sequence[tuple[str, float]],
    title: str,
    start: tuple[float, float],
    path: Path,
) -> Path:
    """Write an interactive page of one image's sampling points and attention.

    A weight is stored as one byte: its square root (the radius of its circle) relative to the largest of the layer.
    If there are more than MAX_WEIGHTS, heads are averaged within their groups, and then every second query of each row
    and column is left out until the weights fit. The page states this.

    Args:
        predictions: classes or objects and their probabilities, best first.
        title: title of the page, for example the image's name.
        start: pixel (x, y) of the query shown first.
    """
    averaged, step = reduction_to_fit(inspection.layers)
    height, width = inspection.image.shape[:2]
    # Pixels of one step of the int16 coordinates; points may be far outside of a small image.
    farthest = max((np.abs(a).max() for layer in inspection.layers for a in (layer.points, layer.reference)), default=0)
    unit = max(1.25 * max(width, height), float(farthest)) / 32767
    content = {
        "size": [width, height],
        "unit": unit,
        "image": picture_url(inspection.image),
        "colors": COLORS,
        "start": list(map(float, start)),
        "predictions": [[one_line(name), round(share, 5)] for name, share in predictions],
        "layers": [_layer(layer, unit, averaged, step) for layer in inspection.layers],
    }
    about = f"Input of the model, {width} x {height} pixels, with the sampling points of its deformable attention."
    if averaged:
        about += " To keep this page small, the heads of each group are averaged"
        about += f", and one in {step} queries of each row and column is shown." if step > 1 else "."
    data = json.dumps(content, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    return write_page(
        Path(__file__).with_name("attention_page.html"),
        path,
        data=data,
        title=html.escape(f"{one_line(title)}: deformable attention"),
        heading=html.escape(one_line(title)),
        about=html.escape(about),
    )


def reduction_to_fit(layers: Sequence[Layer]) -> tuple[bool, int]:
    """(averaged, step) for at most MAX_WEIGHTS: heads are averaged if True; every `step`-th query is kept."""

    def weights(averaged: bool, step: int) -> int:
        total = 0
        for layer in layers:
            queries = -(-layer.size[0] // step) * -(-layer.size[1] // step)
            heads = layer.groups if averaged else layer.heads
            total += heads * queries * layer.points.shape[1]
        return total

    if weights(False, 1) <= MAX_WEIGHTS:
        return False, 1
    step = 1
    while weights(True, step) > MAX_WEIGHTS and step < min(max(layer.size) for layer in layers):
        step *= 2
    return True, step


def _layer(layer: Layer, unit: float, averaged: bool, step: int) -> dict:
    shown = np.arange(layer.size[0] * layer.size[1]).reshape(layer.size)[::step, ::step].ravel()
    weights = layer.by_group(shown) if averaged else layer.attention  # (heads, queries, keys)
    heads, _, keys = weights.shape
    most = float(weights.max())
    return {
        "stage": layer.stage,
        "block": layer.block,
        "size": list(layer.size),
        "reduction": layer.reduction,
        "groups": layer.groups,
        "heads": heads,
        "keys": keys,
        "averaged": averaged,
        "step": step,
        "points": _base64((layer.points / unit).round().astype("<i2")),
        "reference": _base64((layer.reference / unit).round().astype("<i2")),
        "most": most,
        "attention": _base64((255 * np.sqrt(weights / most)).round().astype(np.uint8)),
    }


def _base64(array: np.ndarray) -> str:
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()
