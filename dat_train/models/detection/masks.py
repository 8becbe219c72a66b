"""Masks of single objects: training targets cut out at boxes, and predictions pasted into the image."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import clip_boxes_to_image, roi_align

from dat_train.models.detection.boxes import Size, not_empty


def mask_targets(masks: Tensor, boxes: Tensor, index: Tensor, size: int = 28) -> Tensor:
    """Ground-truth masks (M, H, W) cut out at boxes (N, 4) of objects `index` (N,): (N, size, size) of 0 and 1."""
    boxes = clip_boxes_to_image(boxes, masks.shape[-2:])
    regions = torch.cat([index[:, None].to(boxes), boxes], dim=1)
    return (roi_align(masks[:, None].to(boxes), regions, size, 1.0, 0, aligned=True)[:, 0] >= 0.5).float()


def paste_masks(mask_logits: Sequence[Tensor], boxes: Tensor, size: Size) -> Tensor:
    """Binary masks in the original image: sigmoid averaged over mask heads, sampled bilinearly at pixel centers.

    Args:
        mask_logits: of each head (N, 28, 28).
        boxes: (N, 4) in pixels of the original image.
        size: original (height, width).

    Returns:
        (N, height, width) bool.
    """
    height, width = size
    probabilities = sum(logits.sigmoid() for logits in mask_logits) / len(mask_logits)
    masks = torch.zeros(len(boxes), height, width, dtype=torch.bool, device=boxes.device)
    for mask, probability, box in zip(masks, probabilities, boxes, strict=True):
        if not not_empty(box[None]):
            continue
        x = (torch.arange(width, device=box.device) + 0.5 - box[0]) / (box[2] - box[0]) * 2 - 1
        y = (torch.arange(height, device=box.device) + 0.5 - box[1]) / (box[3] - box[1]) * 2 - 1
        near_x, near_y = (x.abs() < 1.1).nonzero()[:, 0], (y.abs() < 1.1).nonzero()[:, 0]
        if len(near_x) == 0 or len(near_y) == 0:
            continue
        grid = torch.stack(torch.meshgrid(x[near_x], y[near_y], indexing="xy"), dim=-1)
        values = F.grid_sample(probability[None, None], grid[None], align_corners=False)[0, 0]
        mask[near_y[0] : near_y[-1] + 1, near_x[0] : near_x[-1] + 1] = values >= 0.5
    return masks
