"""The page on which one image's points and attention can be explored: what look.js shows."""

import base64
import html
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dat_train.runtime.html_page import picture_url, write_page
from dat_train.viewer.attention import Layer, Look
from dat_train.viewer.pictures import COLOURS, SHOWN_CLASSES

MOST_WEIGHTS = 6_000_000  # attention weights in one page, a byte each; base64 makes 8 MB of them


def write_look(look: Look, classes: Sequence[str], title: str, start: tuple[float, float], path: Path) -> Path:
    """Write the page on which one image's points and attention can be explored.

    A weight is stored as a byte: its square root, which is the radius it is drawn with, as a share of its layer's
    largest. Where a model has more than MOST_WEIGHTS, heads are averaged within their groups, and then every second
    query of each row and column is left out, until they fit; the page says so.

    Args:
        title: of the page, e.g. the image's name.
        start: pixel (x, y) of the query shown first.
    """
    averaged, step = fitting(look.layers)
    height, width = look.image.shape[:2]
    unit = 1.25 * max(width, height) / 32767  # pixels of one step of the int16 coordinates
    content = {
        "size": [width, height],
        "unit": unit,
        "image": picture_url(look.image),
        "colours": COLOURS,
        "start": list(map(float, start)),
        "predictions": [[classes[label], round(share, 5)] for label, share in look.top(SHOWN_CLASSES)],
        "layers": [_layer(layer, unit, averaged, step) for layer in look.layers],
    }
    about = f"The model's input, {width} x {height} pixels, and where its deformable attention looks."
    if averaged:
        about += " To keep this page small, the heads of a group are averaged"
        about += f", and of each row and column one query in {step} is here." if step > 1 else "."
    data = json.dumps(content, separators=(",", ":"), allow_nan=False).replace("</", "<\\/")
    return write_page(
        Path(__file__).with_name("look.html"), path, data=data, title=html.escape(title), about=html.escape(about)
    )


def fitting(layers: Sequence[Layer]) -> tuple[bool, int]:
    """Whether heads have to be averaged, and which queries are kept (each `step`-th), for MOST_WEIGHTS."""

    def weights(averaged: bool, step: int) -> int:
        total = 0
        for layer in layers:
            queries = -(-layer.size[0] // step) * -(-layer.size[1] // step)
            heads = layer.groups if averaged else layer.attention.shape[0]
            total += heads * queries * layer.attention.shape[2]
        return total

    if weights(False, 1) <= MOST_WEIGHTS:
        return False, 1
    step = 1
    while weights(True, step) > MOST_WEIGHTS and step < min(max(layer.size) for layer in layers):
        step *= 2
    return True, step


def _layer(layer: Layer, unit: float, averaged: bool, step: int) -> dict:
    weights = layer.by_group() if averaged else layer.attention  # (heads, queries, keys)
    heads, _, keys = weights.shape
    most = float(weights.max())
    weights = weights.reshape(heads, *layer.size, keys)[:, ::step, ::step]
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
        "points": _base64(np.clip(layer.points / unit, -32767, 32767).round().astype("<i2")),
        "reference": _base64((layer.reference / unit).round().astype("<i2")),
        "most": most,
        "attention": _base64((255 * np.sqrt(weights / most)).round().astype(np.uint8)),
    }


def _base64(array: np.ndarray) -> str:
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()
