"""Segmentation models and RetinaNet as graphs of images of any size, with a description of input and output in JSON."""

import json
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.rpn import concat_box_prediction_layers

from dat_train.export.any_size import smallest_side
from dat_train.models.dense_backbone import resize
from dat_train.models.detection.retinanet import RetinaNet

PADDING = 32  # height and width of the detector's images are padded to a multiple of it


class SegmentationGraph(nn.Module):
    """Segmentation model with logits at the size of its input. (B, 3, H, W) -> (B, classes, H, W)."""

    outputs = ("logits",)

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.smallest = smallest_side(model)

    def forward(self, images: Tensor) -> Tensor:
        return resize(self.model(images), images.shape[-2:])


class RetinaNetGraph(nn.Module):
    """RetinaNet without the selection of detections.

    Shape: images (B, 3, H, W) -> boxes (B, anchors, 4) corners x1, y1, x2, y2 in pixels of the image, clipped to it;
    scores (B, anchors, classes), sigmoid.
    """

    outputs = ("boxes", "scores")
    smallest = 129  # the coarsest level, stride 128, then has two rows and columns

    def __init__(self, model: RetinaNet) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        model, (height, width) = self.model, images.shape[-2:]
        images = F.pad(images, (0, -width % PADDING, 0, -height % PADDING))
        levels = model.neck(model.backbone(images))
        scores, deltas = model.bbox_head(levels)
        scores, deltas = concat_box_prediction_layers(scores, deltas)
        batch = images.shape[0]
        anchors = torch.cat(model.bbox_head.anchors(levels)).repeat(batch, 1)
        corners = model.coder.decode_single(deltas, anchors).view(batch, -1, 2, 2)
        x, y = corners[..., 0].clamp(0, width), corners[..., 1].clamp(0, height)
        return torch.stack((x, y), -1).flatten(-2), scores.view(batch, -1, model.num_classes).sigmoid()


def segmentation_json(
    classes: Sequence[str],
    palette: Sequence[Sequence[int]],
    limits: Sequence[int],
    view: dict[str, Any],
    smallest: int,
) -> str:
    """Input, preprocessing, output, classes and colors of a `SegmentationGraph`.

    Args:
        palette: color (r, g, b) of each class.
        limits: long and short side into which an image is fitted, pixels.
        view: mean and std of the channels.
        smallest: minimum image side of the graph, pixels.
    """
    entries = {
        "output": {"logits": {"dtype": "float32", "shape": ["batch", len(classes), "height", "width"]}},
        "then": [
            "resize the logits bilinearly (pixel centers at 0.5, no antialiasing) to the size of the original image",
            "argmax over the classes",
        ],
        "classes": list(classes),
        "palette": [list(color) for color in palette],
    }
    return _as_json(_input(smallest, limits, view) | entries)


def retinanet_json(classes: Sequence[str], limits: Sequence[int], view: dict[str, Any]) -> str:
    """Input, preprocessing, output and classes of a `RetinaNetGraph`; arguments as in `segmentation_json`."""
    boxes = {"dtype": "float32", "shape": ["batch", "anchors", 4], "order": "x1, y1, x2, y2 in pixels of the input"}
    entries = {
        "output": {"boxes": boxes, "scores": {"dtype": "float32", "shape": ["batch", "anchors", len(classes)]}},
        "then": [
            "keep (box, class) pairs with a score above 0.05",
            "non-maximum suppression within each class at an intersection over union of 0.5; keep the best 100",
            "multiply x by original width / input width, y by original height / input height",
        ],
        "classes": list(classes),
    }
    return _as_json(_input(RetinaNetGraph.smallest, limits, view) | entries)


def _input(smallest: int, limits: Sequence[int], view: dict[str, Any]) -> dict[str, Any]:
    shape = ["batch", 3, "height", "width"]
    return {
        "input": {"name": "images", "dtype": "float32", "shape": shape, "smallest_side": smallest},
        "channels": "RGB, turned upright as EXIF says",
        "resize": {
            "keep_aspect_ratio": True,
            "long_side_at_most": max(limits),
            "short_side_at_most": min(limits),
            "rounding": "int(side * factor + 0.5)",
            "interpolation": "bilinear",
            "antialias": False,
        },
        "divide_by": 255,
        "then_subtract_mean": list(view["mean"]),
        "then_divide_by_std": list(view["std"]),
    }


def _as_json(entries: dict[str, Any]) -> str:
    text = json.dumps(entries, indent=2, ensure_ascii=False)
    return text.encode("utf-8", "backslashreplace").decode()  # undecodable bytes of a name as JSON's \udcNN
