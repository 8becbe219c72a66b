"""Region proposals. Source: Ren et al., Faster R-CNN, NeurIPS 2015."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler
from torchvision.models.detection.rpn import concat_box_prediction_layers

from dat_train.models.dense_backbone import full_precision, init_normal
from dat_train.models.detection.boxes import (
    IGNORED,
    Anchors,
    DeltaCoder,
    Size,
    best_boxes,
    level_candidates,
    match,
    matched,
)


class RPNHead(nn.Module):
    """Objectness and boxes of anchors at five levels, the resulting proposals, and the loss.

    Args:
        channels: channels of every level.
        cascade: smooth L1 box loss with beta 1 / 9 instead of L1, on anchors wholly inside the unpadded image.
        sampled: anchors per image in the loss, at most half of them positive.
        per_level: candidates of a level before suppression, in training and in evaluation.
        proposals: proposals of an image, in training and in evaluation.
    """

    def __init__(
        self,
        channels: int = 256,
        cascade: bool = False,
        *,
        sampled: int = 256,
        per_level: tuple[int, int] = (2000, 1000),
        proposals: tuple[int, int] = (1000, 1000),
    ) -> None:
        super().__init__()
        self.rpn_conv = init_normal(nn.Conv2d(channels, channels, 3, padding=1))
        self.rpn_cls = init_normal(nn.Conv2d(channels, 3, 1))
        self.rpn_reg = init_normal(nn.Conv2d(channels, 12, 1))
        self.anchors = Anchors((4, 8, 16, 32, 64), [8])
        self.coder = DeltaCoder()
        self.sampler = BalancedPositiveNegativeSampler(sampled, 0.5)
        self.cascade = cascade
        self.per_level = per_level
        self.proposals = proposals

    def outputs(self, levels: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Objectness logits (B, 3, H, W) and deltas (B, 12, H, W) of each level."""
        hidden = [F.relu(self.rpn_conv(x)) for x in levels]
        return [self.rpn_cls(x) for x in hidden], [self.rpn_reg(x) for x in hidden]

    def forward(
        self, levels: list[Tensor], sizes: Sequence[Size], targets: Sequence[dict] | None = None
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        """Proposals of each image (N, 4), best first, and in training mode the losses."""
        anchors = self.anchors(levels)
        scores, deltas = concat_box_prediction_layers(*self.outputs(levels))
        scores = full_precision(scores).view(len(sizes), -1, 1)
        deltas = full_precision(deltas).view(len(sizes), -1, 4)
        proposals = [
            self._propose(image_scores, image_deltas, anchors, size)
            for image_scores, image_deltas, size in zip(scores.detach(), deltas.detach(), sizes, strict=True)
        ]
        if not self.training:
            return proposals, {}
        assigned = [
            self.assign(levels, anchors, size, target["boxes"]) for size, target in zip(sizes, targets, strict=True)
        ]
        return proposals, self._losses(scores.squeeze(-1), deltas, torch.cat(anchors), assigned, targets)

    def assign(self, levels: list[Tensor], anchors: list[Tensor], size: Size, boxes: Tensor) -> Tensor:
        """Box of each anchor as in `match`; anchors that do not take part in training are ignored."""
        joined = torch.cat(anchors)
        used = self.anchors.valid(levels, size)
        if self.cascade:
            used &= (joined[:, :2] >= 0).all(1) & (joined[:, 2] < size[1]) & (joined[:, 3] < size[0])
        assigned = torch.full((len(joined),), IGNORED, device=joined.device)
        assigned[used] = match(boxes, joined[used], positive=0.7, negative=0.3, minimum=0.3)
        return assigned

    def _propose(self, scores: Tensor, deltas: Tensor, anchors: list[Tensor], size: Size) -> Tensor:
        """Boxes of the best proposals of one image."""
        mode = 0 if self.training else 1
        counts = [len(level) for level in anchors]
        levels = zip(scores.split(counts), deltas.split(counts), anchors, strict=True)
        boxes, scores, _, numbers = level_candidates(self.coder, levels, size, least=-1, limit=self.per_level[mode])
        return best_boxes(boxes, scores, numbers, 0.7, self.proposals[mode])[0]

    def _losses(
        self, scores: Tensor, deltas: Tensor, anchors: Tensor, assigned: list[Tensor], targets: Sequence[dict]
    ) -> dict[str, Tensor]:
        """Binary cross-entropy and box loss, summed and divided by the sampled anchors of the batch."""
        positive, negative = (torch.stack(masks).bool() for masks in self.sampler(assigned))
        used = positive | negative
        loss_cls = F.binary_cross_entropy_with_logits(scores[used], positive[used].float(), reduction="sum")
        boxes = matched([target["boxes"] for target in targets], torch.stack(assigned) * positive)
        wanted = self.coder.encode_single(boxes, anchors.expand_as(deltas)[positive])
        beta = 1 / 9 if self.cascade else 0.0
        loss_bbox = F.smooth_l1_loss(deltas[positive], wanted, reduction="sum", beta=beta)
        count = used.sum().clamp(min=1)
        return {"loss_rpn_cls": loss_cls / count, "loss_rpn_bbox": loss_bbox / count}
