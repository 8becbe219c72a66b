"""Box and mask heads on regions of interest, their losses; one stage (Mask R-CNN) or several (Cascade Mask R-CNN).

Sources: He et al., Mask R-CNN, ICCV 2017; Cai and Vasconcelos, Cascade R-CNN, CVPR 2018.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler
from torchvision.models.detection.transform import resize_boxes
from torchvision.ops import box_area, generalized_box_iou_loss, roi_align
from torchvision.ops._utils import convert_boxes_to_roi_format

from dat_train.models.dense_backbone import ConvNormAct, full_precision, init_conv, init_normal
from dat_train.models.detection.boxes import (
    DeltaCoder,
    Detections,
    Size,
    best_boxes,
    decode_boxes,
    match,
)
from dat_train.models.detection.masks import mask_targets

# Settings of each stage of Cascade R-CNN
CASCADE_STDS = ((0.1, 0.1, 0.2, 0.2), (0.05, 0.05, 0.1, 0.1), (0.033, 0.033, 0.067, 0.067))  # of box deltas
CASCADE_OVERLAPS = (0.5, 0.6, 0.7)  # intersection over union with a ground-truth box from which a region is positive
CASCADE_WEIGHTS = (1.0, 0.5, 0.25)  # of the losses


@dataclass
class Regions:
    """Sampled regions of one image: positives first.

    Args:
        boxes: (N, 4).
        labels: (N,) class, or the number of classes for background.
        index: (P,) ground-truth box of each positive.
        from_truth: (N,) the region is a ground-truth box itself.
    """

    boxes: Tensor
    labels: Tensor
    index: Tensor
    from_truth: Tensor


def pool_regions(levels: Sequence[Tensor], boxes: list[Tensor], size: int) -> Tensor:
    """Aligned RoIAlign with adaptive sampling on the level that fits each box (side 112 at stride 8).

    Args:
        levels: maps (B, C, H, W) at strides 4, 8, 16, 32.
        boxes: boxes of each image (N_i, 4).
        size: bins per side.

    Returns:
        (sum of N_i, C, size, size).
    """
    regions = convert_boxes_to_roi_format(boxes)
    number = (box_area(regions[:, 1:]).sqrt() / 56 + 1e-6).log2().floor().clamp(0, len(levels) - 1)
    regions = regions.to(levels[0].dtype)
    pooled = levels[0].new_zeros(len(regions), levels[0].shape[1], size, size)
    for i, level in enumerate(levels):
        index = (number == i).nonzero()[:, 0]
        part = roi_align(level, regions[index], size, 1 / (4 * 2**i), sampling_ratio=0, aligned=True)
        pooled = pooled.index_add(0, index, part)
    return pooled


class BoxHead(nn.Module):
    """Classes and class-specific boxes of pooled regions.

    Args:
        channels: channels of the regions.
        num_classes: number of classes, background not counted; background is the last logit.
        width: of the linear layers: two, or one after convolutions.
        convs: 3x3 convolutions with batch normalization before the linear layers.
        stds: standard deviations of the deltas.

    Shape: (N, channels, 7, 7) -> logits (N, num_classes + 1), deltas (N, 4 * num_classes).
    """

    def __init__(
        self,
        channels: int,
        num_classes: int,
        width: int = 1024,
        convs: int = 0,
        stds: Sequence[float] = CASCADE_STDS[0],
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.coder = DeltaCoder(stds)
        self.shared_convs = nn.Sequential(*(ConvNormAct(channels, channels, 3) for _ in range(convs)))
        sizes = (channels * 49, width) if convs else (channels * 49, width, width)
        self.shared_fcs = nn.ModuleList(nn.Linear(*pair) for pair in itertools.pairwise(sizes))
        for linear in self.shared_fcs:
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)
        self.fc_cls = init_normal(nn.Linear(width, num_classes + 1))
        self.fc_reg = init_normal(nn.Linear(width, 4 * num_classes), 0.001)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.shared_convs(x).flatten(1)
        for linear in self.shared_fcs:
            x = F.relu(linear(x))
        return full_precision(self.fc_cls(x)), full_precision(self.fc_reg(x))


class MaskHead(nn.Module):
    """Masks of pooled regions, one for each class. (N, in_channels, 14, 14) -> logits (N, num_classes, 28, 28)."""

    def __init__(self, in_channels: int, num_classes: int, channels: int = 256, convs: int = 4) -> None:
        super().__init__()
        widths = [in_channels] + convs * [channels]
        self.convs = nn.Sequential(*(ConvNormAct(*pair, 3, norm=False) for pair in itertools.pairwise(widths)))
        self.upsample = nn.ConvTranspose2d(channels, channels, 2, stride=2)
        self.conv_logits = nn.Conv2d(channels, num_classes, 1)
        init_conv(self.upsample)
        init_conv(self.conv_logits)

    def forward(self, x: Tensor) -> Tensor:
        return full_precision(self.conv_logits(F.relu(self.upsample(self.convs(x)))))


def of_class(values: Tensor, labels: Tensor) -> Tensor:
    """Values of one class for each region: (N, num_classes, ...), labels (N,) -> (N, ...)."""
    return values[torch.arange(len(labels), device=labels.device), labels]


class RoIHeads(nn.Module):
    """Box and mask heads in stages; each stage trains and tests on the boxes of the one before.

    A single stage is that of Mask R-CNN: low-quality matches, and an L1 loss on the deltas. Several stages are those of
    Cascade R-CNN: rising overlaps, falling loss weights, and a GIoU loss (weight 10) on decoded boxes.

    Args:
        bbox_heads, mask_heads: one of each per stage.
        sampled: regions per image in the loss of a stage, at most a quarter positive.
    """

    def __init__(self, bbox_heads: Sequence[BoxHead], mask_heads: Sequence[MaskHead], sampled: int = 512) -> None:
        super().__init__()
        self.bbox_head = nn.ModuleList(bbox_heads)
        self.mask_head = nn.ModuleList(mask_heads)
        self.cascade = len(bbox_heads) > 1
        self.sampler = BalancedPositiveNegativeSampler(sampled, 0.25)
        self.num_classes = bbox_heads[0].num_classes

    def losses(
        self, levels: list[Tensor], proposals: list[Tensor], sizes: Sequence[Size], targets: Sequence[dict]
    ) -> dict[str, Tensor]:
        """Losses of all stages, with their weights; names end in the stage's number if there are several."""
        losses = {}
        for stage, head in enumerate(self.bbox_head):
            regions = [self.sample(*pair, stage) for pair in zip(proposals, targets, strict=True)]
            boxes = [region.boxes for region in regions]
            labels = torch.cat([region.labels for region in regions])
            logits, deltas = head(pool_regions(levels, boxes, 7))
            values = self._box_losses(head, logits, deltas, regions, targets)
            values["loss_mask"] = self._mask_loss(self.mask_head[stage], levels, regions, targets)
            suffix = f"_{stage}" if self.cascade else ""
            losses |= {name + suffix: value * CASCADE_WEIGHTS[stage] for name, value in values.items()}
            if stage + 1 < len(self.bbox_head):
                with torch.no_grad():  # regions of the next stage: without the ground-truth boxes
                    labels = torch.where(labels == self.num_classes, logits[:, :-1].argmax(1), labels)
                    moved = _move(head, deltas, labels, boxes, sizes)
                    proposals = [box[~region.from_truth] for box, region in zip(moved, regions, strict=True)]
        return losses

    def sample(self, boxes: Tensor, target: dict, stage: int = 0) -> Regions:
        """Ground truth and proposals matched and sampled."""
        truth = target["boxes"].to(boxes)
        boxes = torch.cat([truth, boxes])
        overlap = CASCADE_OVERLAPS[stage]
        minimum = None if self.cascade else overlap
        assigned = match(truth, boxes, positive=overlap, negative=overlap, minimum=minimum)
        assigned[: len(truth)] = torch.arange(1, len(truth) + 1, device=boxes.device)
        positive, negative = (chosen[0].nonzero()[:, 0] for chosen in self.sampler([assigned]))
        labels = torch.full((len(positive) + len(negative),), self.num_classes, device=boxes.device)
        labels[: len(positive)] = target["labels"][assigned[positive] - 1]
        chosen = torch.cat([positive, negative])
        return Regions(boxes[chosen], labels, assigned[positive] - 1, chosen < len(truth))

    def _box_losses(
        self, head: BoxHead, logits: Tensor, deltas: Tensor, regions: list[Regions], targets: Sequence[dict]
    ) -> dict[str, Tensor]:
        """Cross-entropy, mean over the regions; box loss of the positives, divided by all sampled regions."""
        labels = torch.cat([region.labels for region in regions])
        positive = labels < self.num_classes
        boxes = torch.cat([region.boxes for region in regions])[positive]
        truth = torch.cat([target["boxes"][region.index] for region, target in zip(regions, targets, strict=True)])
        own = of_class(deltas[positive].unflatten(1, (-1, 4)), labels[positive])
        if self.cascade:
            decoded = head.coder.decode_single(own, boxes)
            loss_bbox = 10 * generalized_box_iou_loss(decoded, truth, reduction="sum", eps=1e-6)
        else:
            loss_bbox = F.l1_loss(own, head.coder.encode_single(truth, boxes), reduction="sum")
        count = max(len(labels), 1)
        loss_cls = F.cross_entropy(logits, labels, reduction="sum") / count
        return {"loss_cls": loss_cls, "loss_bbox": loss_bbox / count}

    def _mask_loss(
        self, head: MaskHead, levels: list[Tensor], regions: list[Regions], targets: Sequence[dict]
    ) -> Tensor:
        """Binary cross-entropy on the true class's mask, mean over positives and pixels."""
        positives = [region.boxes[: len(region.index)] for region in regions]
        labels = torch.cat([region.labels[: len(region.index)] for region in regions])
        own = of_class(head(pool_regions(levels, positives, 14)), labels)
        wanted = [
            mask_targets(target["masks"], boxes, region.index)
            for target, boxes, region in zip(targets, positives, regions, strict=True)
        ]
        return F.binary_cross_entropy_with_logits(own, torch.cat(wanted), reduction="sum") / max(own.numel(), 1)

    def detect(
        self, levels: list[Tensor], proposals: list[Tensor], sizes: Sequence[Size], originals: Sequence[Size]
    ) -> list[Detections]:
        """Best 100 boxes of each image, with mask logits of the predicted class from every mask head."""
        stages = self.run_stages(levels, proposals, sizes)
        boxes, _, deltas = stages[-1]
        counts = [len(box) for box in boxes]
        scores = (sum(logits for _, logits, _ in stages) / len(stages)).softmax(1)[:, :-1]
        found = []
        for i, (score, delta) in enumerate(zip(scores.split(counts), deltas.split(counts), strict=True)):
            decoded = decode_boxes(self.bbox_head[-1].coder, delta, boxes[i], sizes[i])
            region, label = (score > 0.05).nonzero(as_tuple=True)
            best, score, label = best_boxes(decoded[region, label], score[region, label], label, 0.5, 100)
            pooled = pool_regions([level[i : i + 1] for level in levels], [best], 14)
            masks = [of_class(head(pooled), label) for head in self.mask_head]
            found.append(Detections(resize_boxes(best, sizes[i], originals[i]), score, label, masks))
        return found

    def run_stages(
        self, levels: list[Tensor], proposals: list[Tensor], sizes: Sequence[Size]
    ) -> list[tuple[list[Tensor], Tensor, Tensor]]:
        """Evaluation of every stage: its regions, logits and deltas."""
        outputs, boxes = [], proposals
        for stage, head in enumerate(self.bbox_head):
            logits, deltas = head(pool_regions(levels, boxes, 7))
            outputs.append((boxes, logits, deltas))
            if stage + 1 < len(self.bbox_head):
                boxes = _move(head, deltas, logits[:, :-1].argmax(1), boxes, sizes)
        return outputs


def _move(head: BoxHead, deltas: Tensor, labels: Tensor, boxes: list[Tensor], sizes: Sequence[Size]) -> list[Tensor]:
    """Boxes of each image moved by the deltas of a class, `labels` (boxes of all images,)."""
    own = of_class(deltas.unflatten(1, (-1, 4)), labels).split([len(box) for box in boxes])
    return [decode_boxes(head.coder, *image) for image in zip(own, boxes, sizes, strict=True)]
