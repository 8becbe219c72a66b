"""Region proposals. Source: Ren et al., Faster R-CNN, NeurIPS 2015."""

from collections.abc import Sequence
from dataclasses import dataclass

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
    MatchRule,
    Size,
    best_boxes,
    decode_boxes,
    match,
)

RULE = MatchRule(positive=0.7, negative=0.3, minimum=0.3)


@dataclass(frozen=True)
class ProposalLimits:
    """Numbers of candidates: `per_level` before suppression, `training` and `testing` an image after it."""

    per_level_training: int = 2000
    per_level_testing: int = 1000
    training: int = 1000
    testing: int = 1000


class RPNHead(nn.Module):
    """Objectness and boxes of anchors at five levels, the proposals made of them, and their loss.

    Args:
        in_channels: channels of every level.
        limits: numbers of proposals.
        sampled: anchors an image that enter the loss, at most half of them positive.
        beta: 0 for the L1 box loss, otherwise the smooth L1 loss's parameter (Cascade: 1 / 9).
        inside_only: train only on anchors wholly inside the unpadded image (Cascade).
    """

    def __init__(
        self,
        in_channels: int = 256,
        limits: ProposalLimits = ProposalLimits(),
        sampled: int = 256,
        beta: float = 0.0,
        inside_only: bool = False,
    ) -> None:
        super().__init__()
        self.rpn_conv = init_normal(nn.Conv2d(in_channels, in_channels, 3, padding=1))
        self.rpn_cls = init_normal(nn.Conv2d(in_channels, 3, 1))
        self.rpn_reg = init_normal(nn.Conv2d(in_channels, 12, 1))
        self.anchors = Anchors((4, 8, 16, 32, 64), [8])
        self.coder = DeltaCoder()
        self.sampler = BalancedPositiveNegativeSampler(sampled, 0.5)
        self.limits = limits
        self.beta = beta
        self.inside_only = inside_only

    def outputs(self, levels: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Objectness logits (B, 3, H, W) and deltas (B, 12, H, W) of each level."""
        hidden = [F.relu(self.rpn_conv(x)) for x in levels]
        return [self.rpn_cls(x) for x in hidden], [self.rpn_reg(x) for x in hidden]

    def forward(
        self, levels: list[Tensor], sizes: Sequence[Size], targets: Sequence[dict] | None = None
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        """Proposals of each image (N, 4), best first, and in training mode the losses."""
        scores, deltas = self.outputs(levels)
        anchors = self.anchors(levels)
        flat_scores, flat_deltas = concat_box_prediction_layers(scores, deltas)
        flat_scores = full_precision(flat_scores).view(len(sizes), -1)
        flat_deltas = full_precision(flat_deltas).view(len(sizes), -1, 4)
        proposals = [
            self._propose(flat_scores[i].detach(), flat_deltas[i].detach(), anchors, size)[0]
            for i, size in enumerate(sizes)
        ]
        if not self.training:
            return proposals, {}
        assigned = [self.assign(levels, anchors, size, targets[i]) for i, size in enumerate(sizes)]
        return proposals, self._losses(flat_scores, flat_deltas, torch.cat(anchors), assigned, targets)

    def assign(self, levels: list[Tensor], anchors: list[Tensor], size: Size, target: dict) -> Tensor:
        """Box of each anchor as in `match`; anchors that do not take part in training are ignored."""
        joined = torch.cat(anchors)
        used = torch.cat(self.anchors.valid(levels, size))
        if self.inside_only:
            used &= (joined[:, :2] >= 0).all(1) & (joined[:, 2] < size[1]) & (joined[:, 3] < size[0])
        assigned = torch.full((len(joined),), IGNORED, device=joined.device)
        assigned[used] = match(target["boxes"], joined[used], RULE)
        return assigned

    def _propose(
        self, scores: Tensor, deltas: Tensor, anchors: list[Tensor], size: Size
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes, scores and levels of the best proposals of one image."""
        counts = [len(level) for level in anchors]
        per_level = self.limits.per_level_training if self.training else self.limits.per_level_testing
        boxes, values, numbers = [], [], []
        for number, (score, delta, anchor) in enumerate(
            zip(scores.split(counts), deltas.split(counts), anchors, strict=True)
        ):
            value, best = score.sigmoid().topk(min(per_level, len(score)))
            boxes.append(decode_boxes(self.coder, delta[best], anchor[best], size))
            values.append(value)
            numbers.append(torch.full_like(best, number))
        limit = self.limits.training if self.training else self.limits.testing
        return best_boxes(torch.cat(boxes), torch.cat(values), torch.cat(numbers), 0.7, limit)

    def _losses(
        self, scores: Tensor, deltas: Tensor, anchors: Tensor, assigned: list[Tensor], targets: Sequence[dict]
    ) -> dict[str, Tensor]:
        """Binary cross-entropy and box loss, summed and divided by the sampled anchors of the batch."""
        positives, negatives = self.sampler(assigned)
        loss_cls, loss_bbox, sampled = scores.sum() * 0, deltas.sum() * 0, 0
        for i, target in enumerate(targets):
            positive, used = positives[i].bool(), (positives[i] | negatives[i]).bool()
            loss_cls = loss_cls + F.binary_cross_entropy_with_logits(
                scores[i][used], positive[used].float(), reduction="sum"
            )
            wanted = self.coder.encode_single(target["boxes"][assigned[i][positive] - 1], anchors[positive])
            loss_bbox = loss_bbox + F.smooth_l1_loss(deltas[i][positive], wanted, reduction="sum", beta=self.beta)
            sampled += int(used.sum())
        return {"loss_rpn_cls": loss_cls / max(sampled, 1), "loss_rpn_bbox": loss_bbox / max(sampled, 1)}
