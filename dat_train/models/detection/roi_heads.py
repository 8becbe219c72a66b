"""Box and mask heads on regions of interest, their losses; one stage (Mask R-CNN) or several (Cascade Mask R-CNN).

Sources: He et al., Mask R-CNN, ICCV 2017; Cai and Vasconcelos, Cascade R-CNN, CVPR 2018.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler
from torchvision.ops import generalized_box_iou_loss, roi_align

from dat_train.models.dense_backbone import ConvNormAct, full_precision, init_conv, init_normal
from dat_train.models.detection.boxes import (
    DeltaCoder,
    Detections,
    MatchRule,
    Size,
    best_boxes,
    decode_boxes,
    match,
    rescale,
)
from dat_train.models.detection.masks import mask_targets

STRIDES = (4, 8, 16, 32)


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


def pool_regions(levels: Sequence[Tensor], boxes: Sequence[Tensor], size: int) -> Tensor:
    """Aligned RoIAlign with adaptive sampling on the level that fits each box (side 112 at stride 8).

    Args:
        levels: maps (B, C, H, W) at strides 4, 8, 16, 32.
        boxes: boxes of each image (N_i, 4).
        size: bins a side.

    Returns:
        (sum of N_i, C, size, size).
    """
    joined = torch.cat(list(boxes))
    numbers = torch.cat([box.new_full((len(box), 1), float(i)) for i, box in enumerate(boxes)])
    regions = torch.cat([numbers, joined], dim=1).to(levels[0].dtype)
    areas = (joined[:, 2] - joined[:, 0]) * (joined[:, 3] - joined[:, 1])
    level = (areas.sqrt() / 56 + 1e-6).log2().floor().clamp(0, len(STRIDES) - 1)
    pooled = levels[0].new_zeros(len(regions), levels[0].shape[1], size, size)
    for i, stride in enumerate(STRIDES):
        index = (level == i).nonzero()[:, 0]
        part = roi_align(levels[i], regions[index], size, 1 / stride, sampling_ratio=0, aligned=True)
        pooled = pooled.index_add(0, index, part)
    return pooled


class BoxHead(nn.Module):
    """Classes and class-specific boxes of pooled regions.

    Args:
        in_channels: channels of the regions.
        num_classes: number of classes, background not counted; background is the last logit.
        convs: 3x3 convolutions with batch normalization before the linear layers.
        linears: shared linear layers of width `width`.
        stds: standard deviations of the deltas.

    Shape: (N, in_channels, 7, 7) -> logits (N, num_classes + 1), deltas (N, 4 * num_classes).
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        convs: int = 0,
        linears: int = 2,
        width: int = 1024,
        conv_width: int = 256,
        stds: Sequence[float] = (0.1, 0.1, 0.2, 0.2),
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.coder = DeltaCoder(stds)
        self.shared_convs = nn.ModuleList(
            ConvNormAct(in_channels if i == 0 else conv_width, conv_width, 3) for i in range(convs)
        )
        flat = (conv_width if convs else in_channels) * 49
        self.shared_fcs = nn.ModuleList(nn.Linear(flat if i == 0 else width, width) for i in range(linears))
        for linear in self.shared_fcs:
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)
        self.fc_cls = init_normal(nn.Linear(width, num_classes + 1))
        self.fc_reg = init_normal(nn.Linear(width, 4 * num_classes), 0.001)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        for conv in self.shared_convs:
            x = conv(x)
        x = x.flatten(1)
        for linear in self.shared_fcs:
            x = F.relu(linear(x))
        return full_precision(self.fc_cls(x)), full_precision(self.fc_reg(x))

    def of_class(self, deltas: Tensor, labels: Tensor) -> Tensor:
        """Deltas (N, 4) of one class for each region."""
        return deltas.view(len(deltas), self.num_classes, 4)[torch.arange(len(labels), device=labels.device), labels]


class MaskHead(nn.Module):
    """Masks of pooled regions, one for each class. (N, in_channels, 14, 14) -> logits (N, num_classes, 28, 28)."""

    def __init__(self, in_channels: int, num_classes: int, channels: int = 256, convs: int = 4) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            ConvNormAct(in_channels if i == 0 else channels, channels, 3, norm=False) for i in range(convs)
        )
        self.upsample = nn.ConvTranspose2d(channels, channels, 2, stride=2)
        self.conv_logits = nn.Conv2d(channels, num_classes, 1)
        init_conv(self.upsample)
        init_conv(self.conv_logits)

    def forward(self, x: Tensor) -> Tensor:
        for conv in self.convs:
            x = conv(x)
        return full_precision(self.conv_logits(F.relu(self.upsample(x))))


class RoIHeads(nn.Module):
    """Box and mask heads in stages; each stage trains and tests on the boxes of the one before.

    Args:
        bbox_heads, mask_heads: one of each a stage; no mask heads: boxes only.
        rules: matching of regions in each stage.
        weights: loss weight of each stage.
        sampled: regions an image that enter a stage's loss, at most a quarter positive.
        giou: GIoU loss (weight 10) on decoded boxes instead of L1 on deltas (Cascade).
    """

    def __init__(
        self,
        bbox_heads: Sequence[BoxHead],
        mask_heads: Sequence[MaskHead],
        rules: Sequence[MatchRule],
        *,
        weights: Sequence[float] = (1.0,),
        sampled: int = 512,
        giou: bool = False,
    ) -> None:
        super().__init__()
        self.bbox_head = nn.ModuleList(bbox_heads)
        self.mask_head = nn.ModuleList(mask_heads)
        self.rules = tuple(rules)
        self.weights = tuple(weights)
        self.sampler = BalancedPositiveNegativeSampler(sampled, 0.25)
        self.giou = giou
        self.num_classes = bbox_heads[0].num_classes

    def losses(
        self, levels: list[Tensor], proposals: list[Tensor], sizes: Sequence[Size], targets: Sequence[dict]
    ) -> dict[str, Tensor]:
        """Losses of all stages, with their weights; names end in the stage's number if there are several."""
        losses = {}
        for stage, head in enumerate(self.bbox_head):
            regions = [
                self.sample(boxes, target, self.rules[stage]) for boxes, target in zip(proposals, targets, strict=True)
            ]
            boxes = [region.boxes for region in regions]
            logits, deltas = head(pool_regions(levels, boxes, 7))
            values = self._box_losses(head, logits, deltas, regions, targets)
            if self.mask_head:
                values["loss_mask"] = self._mask_loss(self.mask_head[stage], levels, regions, targets)
            suffix = f"_{stage}" if len(self.bbox_head) > 1 else ""
            losses |= {name + suffix: value * self.weights[stage] for name, value in values.items()}
            if stage + 1 < len(self.bbox_head):
                with torch.no_grad():
                    proposals = self._refine_sampled(head, logits, deltas, regions, sizes)
        return losses

    def sample(self, boxes: Tensor, target: dict, rule: MatchRule) -> Regions:
        """Ground truth and proposals matched and sampled."""
        truth = target["boxes"].to(boxes)
        boxes = torch.cat([truth, boxes])
        assigned = match(truth, boxes, rule)
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
        boxes = torch.cat([region.boxes for region in regions])
        positive = labels < self.num_classes
        truth = torch.cat([target["boxes"][region.index] for region, target in zip(regions, targets, strict=True)])
        own = head.of_class(deltas[positive], labels[positive])
        if self.giou:
            decoded = head.coder.decode_single(own, boxes[positive])
            loss_bbox = 10 * generalized_box_iou_loss(decoded, truth, reduction="sum", eps=1e-6)
        else:
            wanted = head.coder.encode_single(truth, boxes[positive])
            loss_bbox = F.l1_loss(own, wanted, reduction="sum")
        count = max(len(labels), 1)
        loss_cls = F.cross_entropy(logits, labels, reduction="sum") / count
        return {"loss_cls": loss_cls, "loss_bbox": loss_bbox / count}

    def _mask_loss(
        self, head: MaskHead, levels: list[Tensor], regions: list[Regions], targets: Sequence[dict]
    ) -> Tensor:
        """Binary cross-entropy on the true class's mask, mean over positives and pixels."""
        positives = [region.boxes[: len(region.index)] for region in regions]
        logits = head(pool_regions(levels, positives, 14))
        labels = torch.cat([region.labels[: len(region.index)] for region in regions])
        wanted = torch.cat(
            [
                mask_targets(target["masks"], boxes, region.index)
                for target, boxes, region in zip(targets, positives, regions, strict=True)
            ]
        )
        own = logits[torch.arange(len(labels), device=labels.device), labels]
        return F.binary_cross_entropy_with_logits(own, wanted, reduction="sum") / max(wanted.numel(), 1)

    def _refine_sampled(
        self, head: BoxHead, logits: Tensor, deltas: Tensor, regions: list[Regions], sizes: Sequence[Size]
    ) -> list[Tensor]:
        """Regions of the next stage: moved by the deltas of their label, ground-truth boxes dropped."""
        counts = [len(region.boxes) for region in regions]
        refined = []
        for region, logit, delta, size in zip(regions, logits.split(counts), deltas.split(counts), sizes, strict=True):
            background = region.labels == self.num_classes
            labels = torch.where(background, logit[:, :-1].argmax(1), region.labels)
            boxes = decode_boxes(head.coder, head.of_class(delta, labels), region.boxes, size)
            refined.append(boxes[~region.from_truth])
        return refined

    def detect(
        self, levels: list[Tensor], proposals: list[Tensor], sizes: Sequence[Size], originals: Sequence[Size]
    ) -> list[Detections]:
        """Best 100 boxes of each image, with mask logits of the predicted class from every mask head."""
        boxes, logits, deltas = self.run_stages(levels, proposals, sizes)[-1]
        counts = [len(box) for box in boxes]
        scores = (sum(logits) / len(logits)).softmax(1).split(counts)
        head = self.bbox_head[-1]
        found = []
        for i, size in enumerate(sizes):
            decoded = decode_boxes(head.coder, deltas.split(counts)[i], boxes[i], size)
            region, label = (scores[i][:, :-1] > 0.05).nonzero(as_tuple=True)
            best = best_boxes(decoded[region, label], scores[i][region, label], label, 0.5, 100)
            found.append(Detections(rescale(best[0], size, originals[i]), *best[1:]))
            found[-1].mask_logits = self._masks(levels, i, best[0], best[2]) if self.mask_head else None
        return found

    def run_stages(
        self, levels: list[Tensor], proposals: list[Tensor], sizes: Sequence[Size]
    ) -> list[tuple[list[Tensor], list[Tensor], Tensor]]:
        """Evaluation of every stage: its regions, the logits of all stages so far, its deltas."""
        outputs, logits, boxes = [], [], proposals
        for stage, head in enumerate(self.bbox_head):
            scores, deltas = head(pool_regions(levels, boxes, 7))
            logits = [*logits, scores]
            outputs.append((boxes, logits, deltas))
            if stage + 1 < len(self.bbox_head):
                own = head.of_class(deltas, scores[:, :-1].argmax(1))
                parts = own.split([len(box) for box in boxes])
                boxes = [
                    decode_boxes(head.coder, part, box, size)
                    for part, box, size in zip(parts, boxes, sizes, strict=True)
                ]
        return outputs

    def _masks(self, levels: list[Tensor], image: int, boxes: Tensor, labels: Tensor) -> list[Tensor]:
        """Mask logits of the predicted classes (N, 28, 28), one for each mask head."""
        pooled = pool_regions([level[image : image + 1] for level in levels], [boxes], 14)
        index = torch.arange(len(labels), device=labels.device)
        return [head(pooled)[index, labels] for head in self.mask_head]
