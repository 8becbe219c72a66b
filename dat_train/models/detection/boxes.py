"""Anchors, box deltas, matching of boxes, and non-maximum suppression."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.models.detection._utils import BoxCoder
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import batched_nms, box_iou, clip_boxes_to_image

from dat_train.models.dense_backbone import full_precision

RATIOS = (0.5, 1.0, 2.0)  # height / width
BACKGROUND, IGNORED = 0, -1  # results of `match`; k > 0 is box k - 1

Size = tuple[int, int]  # (height, width) in pixels


@dataclass
class Detections:
    """Detections of one image, best first.

    Args:
        boxes: (N, 4) corners x1, y1, x2, y2 in pixels of the original image.
        scores: (N,).
        labels: (N,) int64, 0-based.
        mask_logits: per mask head (N, 28, 28) logits of the predicted class; None without masks.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    mask_logits: list[Tensor] | None = None

    def selected(self, chosen: Tensor | slice) -> "Detections":
        """Chosen detections, in this order, in float32 on the CPU."""
        masks = self.mask_logits and [logits[chosen].float().cpu() for logits in self.mask_logits]
        return Detections(self.boxes[chosen].float().cpu(), self.scores[chosen].cpu(), self.labels[chosen].cpu(), masks)


class Anchors(AnchorGenerator):
    """Anchors of every pyramid level: torchvision's generator without rounding and with fixed strides.

    Args:
        strides: pixels between locations, of each level.
        scales: anchor sizes in strides.
    """

    def __init__(self, strides: Sequence[int], scales: Sequence[float]) -> None:
        self.strides = tuple(strides)
        sizes = tuple(tuple(stride * scale for scale in scales) for stride in strides)
        super().__init__(sizes, (RATIOS,) * len(sizes))

    def generate_anchors(self, scales, aspect_ratios, dtype=torch.float32, device="cpu") -> Tensor:
        scales = torch.as_tensor(scales, dtype=dtype, device=device)
        roots = torch.as_tensor(aspect_ratios, dtype=dtype, device=device).sqrt()
        widths = (scales / roots[:, None]).flatten()
        heights = (scales * roots[:, None]).flatten()
        return torch.stack([-widths, -heights, widths, heights], dim=1) / 2

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Anchors of each level (H * W * anchors, 4): locations row by row; ratio-major, scale-minor at each."""
        self.set_cell_anchors(torch.float32, maps[0].device)
        strides = [[torch.tensor(stride, device=maps[0].device)] * 2 for stride in self.strides]
        return self.grid_anchors([list(x.shape[-2:]) for x in maps], strides)

    def valid(self, maps: Sequence[Tensor], size: Size) -> Tensor:
        """Mask (anchors of all levels,): locations within an image's own size, padded to a multiple of 32."""
        masks = []
        for x, stride, count in zip(maps, self.strides, self.num_anchors_per_location(), strict=True):
            inside = torch.zeros(x.shape[-2:], dtype=torch.bool, device=x.device)
            rows, columns = (math.ceil(math.ceil(side / 32) * 32 / stride) for side in size)
            inside[:rows, :columns] = True
            masks.append(inside.flatten().repeat_interleave(count))
        return torch.cat(masks)


class DeltaCoder(BoxCoder):
    """Box deltas (dx, dy, dw, dh) as in torchvision's coder; dw and dh are clamped on both sides.

    Args:
        stds: standard deviations by which the deltas are divided.
    """

    def __init__(self, stds: Sequence[float] = (1.0, 1.0, 1.0, 1.0)) -> None:
        super().__init__(tuple(1 / std for std in stds), math.log(1000 / 16))

    def decode_single(self, rel_codes: Tensor, boxes: Tensor) -> Tensor:
        limit = torch.tensor([math.inf, math.inf, self.bbox_xform_clip, self.bbox_xform_clip], device=boxes.device)
        low = (-limit * torch.tensor(self.weights, device=boxes.device)).to(rel_codes.dtype)
        return super().decode_single(torch.maximum(rel_codes, low.repeat(rel_codes.shape[1] // 4)), boxes)


def match(boxes: Tensor, anchors: Tensor, *, positive: float, negative: float, minimum: float | None = None) -> Tensor:
    """Assignment of anchors (or regions) to ground-truth boxes.

    An anchor is assigned to its best box. With low-quality matches, the anchors with exactly the best overlap of a box
    are then also assigned to this box, if the overlap reaches `minimum`; boxes are processed in order.

    Args:
        boxes: (M, 4) ground truth.
        anchors: (N, 4).
        positive, negative: an anchor with an intersection over union of at least `positive` takes its best box, one
            under `negative` is background, others are ignored.
        minimum: smallest overlap of a low-quality match; None: no low-quality matches.

    Returns:
        (N,) int64: 0 background, -1 ignored, k box k - 1.
    """
    if len(boxes) == 0 or len(anchors) == 0:
        return torch.zeros(len(anchors), dtype=torch.int64, device=anchors.device)
    overlaps = box_iou(boxes, anchors)
    best, index = overlaps.max(dim=0)
    assigned = torch.full_like(index, IGNORED)
    assigned[best < negative] = BACKGROUND
    assigned = torch.where(best >= positive, index + 1, assigned)
    if minimum is not None:
        for number, (row, highest) in enumerate(zip(overlaps, overlaps.max(dim=1).values, strict=True), start=1):
            if highest >= minimum:
                assigned[row == highest] = number
    return assigned


def matched(values: Sequence[Tensor], assigned: Sequence[Tensor]) -> Tensor:
    """Boxes or labels of the positives of all images.

    Args:
        values: (M, ...) of the ground truth of each image.
        assigned: (N,) of each image, as `match` returns them.
    """
    return torch.cat([value[index[index > 0] - 1] for value, index in zip(values, assigned, strict=True)])


def decode_boxes(coder: DeltaCoder, deltas: Tensor, anchors: Tensor, size: Size) -> Tensor:
    """Boxes (N, ..., 4) of deltas (N, 4 or 4 * classes), clipped to the image."""
    boxes = coder.decode_single(full_precision(deltas), anchors).view(len(anchors), deltas.shape[1] // 4, 4)
    boxes = clip_boxes_to_image(boxes, size)
    return boxes[:, 0] if deltas.shape[1] == 4 else boxes


def not_empty(boxes: Tensor) -> Tensor:
    """Mask (N,) of boxes that have a width and a height."""
    return (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])


def best_boxes(boxes: Tensor, scores: Tensor, labels: Tensor, iou: float, limit: int) -> tuple[Tensor, Tensor, Tensor]:
    """The best `limit` boxes after non-maximum suppression within each label; empty boxes are dropped."""
    keep = not_empty(boxes)
    boxes, scores, labels = boxes[keep], scores[keep], labels[keep]
    keep = batched_nms(boxes, scores, labels, iou)[:limit]
    return boxes[keep], scores[keep], labels[keep]


def level_candidates(
    coder: DeltaCoder,
    levels: Iterable[tuple[Tensor, Tensor, Tensor]],
    size: Size,
    *,
    least: float,
    limit: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Candidates of one image before non-maximum suppression: the best `limit` (anchor, class) pairs of every level.

    Args:
        levels: of each level class logits (N, classes), deltas (N, 4) and anchors (N, 4).
        size: of the image, to which boxes are clipped.
        least: candidates have a score above it.

    Returns:
        boxes (K, 4); scores, labels and numbers of the levels (K,).
    """
    found = []
    for number, (logits, deltas, anchors) in enumerate(levels):
        scores = logits.sigmoid()
        location, label = (scores > least).nonzero(as_tuple=True)
        score, best = scores[location, label].sort(descending=True, stable=True)
        location, label = location[best[:limit]], label[best[:limit]]
        boxes = decode_boxes(coder, deltas[location], anchors[location], size)
        found.append((boxes, score[:limit], label, torch.full_like(label, number)))
    return tuple(torch.cat(parts) for parts in zip(*found, strict=True))
