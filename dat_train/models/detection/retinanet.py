"""RetinaNet: focal loss on dense anchors. Source: Lin et al., Focal Loss for Dense Object Detection, ICCV 2017."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.rpn import concat_box_prediction_layers
from torchvision.ops import sigmoid_focal_loss

from dat_train.models.dense_backbone import ConvNormAct, DenseBackbone, DenseModel, full_precision, init_normal
from dat_train.models.detection.boxes import (
    IGNORED,
    Anchors,
    DeltaCoder,
    Detections,
    MatchRule,
    Size,
    best_boxes,
    decode_boxes,
    match,
    rescale,
)

RULE = MatchRule(positive=0.5, negative=0.4, minimum=0.0)


class RetinaHead(nn.Module):
    """Two towers of convolutions shared by all levels.

    Shape: level (B, in_channels, H, W) -> class logits (B, 9 * num_classes, H, W), deltas (B, 36, H, W), anchor-major.
    """

    def __init__(self, in_channels: int, num_classes: int, channels: int = 256, convs: int = 4) -> None:
        super().__init__()

        def tower() -> nn.ModuleList:
            layers = [ConvNormAct(in_channels if i == 0 else channels, channels, 3, norm=False) for i in range(convs)]
            for layer in layers:
                init_normal(layer.conv)
            return nn.ModuleList(layers)

        self.cls_convs, self.reg_convs = tower(), tower()
        self.anchors = Anchors((8, 16, 32, 64, 128), [4 * 2 ** (i / 3) for i in range(3)])
        self.retina_cls = init_normal(nn.Conv2d(channels, 9 * num_classes, 3, padding=1))
        self.retina_reg = init_normal(nn.Conv2d(channels, 9 * 4, 3, padding=1))
        nn.init.constant_(self.retina_cls.bias, -math.log(99))  # every score starts at 0.01

    def forward(self, levels: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        scores, deltas = [], []
        for x in levels:
            classes, boxes = x, x
            for conv in self.cls_convs:
                classes = conv(classes)
            for conv in self.reg_convs:
                boxes = conv(boxes)
            scores.append(self.retina_cls(classes))
            deltas.append(self.retina_reg(boxes))
        return scores, deltas


class RetinaNet(DenseModel):
    """RetinaNet detector.

    Args:
        backbone: outputs at strides 8, 16, 32.
        neck: pyramid with two strided extra levels: strides 8 to 128.
        bbox_head: class and box towers.
        num_classes: number of classes.
    """

    def __init__(self, backbone: DenseBackbone, neck: nn.Module, bbox_head: RetinaHead, num_classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.neck = neck
        self.bbox_head = bbox_head
        self.num_classes = num_classes
        self.coder = DeltaCoder()
        self.pretrained_cfg = {"classifier": ("bbox_head.retina_cls",)}

    def forward(
        self, images: Tensor, sizes: Sequence[Size] | None = None, targets: Sequence[dict] | None = None
    ) -> dict[str, Tensor] | list[Detections]:
        """Losses in training mode, detections otherwise. Arguments as of `MaskRCNN`, without masks."""
        sizes = sizes or [tuple(images.shape[-2:])] * len(images)
        levels = self.neck(self.backbone(images))
        scores, deltas = self.bbox_head(levels)
        anchors = self.bbox_head.anchors(levels)
        counts = [len(level) for level in anchors]
        batch = len(images)
        flat_scores, flat_deltas = concat_box_prediction_layers(scores, deltas)
        flat_scores = full_precision(flat_scores).view(batch, -1, self.num_classes)
        flat_deltas = full_precision(flat_deltas).view(batch, -1, 4)
        if self.training:
            valid = [torch.cat(self.bbox_head.anchors.valid(levels, size)) for size in sizes]
            return self._losses(flat_scores, flat_deltas, torch.cat(anchors), valid, targets)
        originals = [size if targets is None else targets[i].get("original", size) for i, size in enumerate(sizes)]
        return [
            self._detect(flat_scores[i].split(counts), flat_deltas[i].split(counts), anchors, sizes[i], originals[i])
            for i in range(batch)
        ]

    def _losses(
        self, scores: Tensor, deltas: Tensor, anchors: Tensor, valid: list[Tensor], targets: Sequence[dict]
    ) -> dict[str, Tensor]:
        """Focal and L1 loss, both divided by the positives of the batch (at least one an image)."""
        loss_cls, loss_bbox, positives = scores.sum() * 0, deltas.sum() * 0, 0
        for i, target in enumerate(targets):
            assigned = match(target["boxes"], anchors, RULE).masked_fill(~valid[i], IGNORED)
            used, positive = assigned != IGNORED, assigned > 0
            classes = torch.zeros_like(scores[i])
            boxes = target["boxes"][assigned[positive] - 1]
            classes[positive, target["labels"][assigned[positive] - 1]] = 1
            loss_cls = loss_cls + sigmoid_focal_loss(scores[i][used], classes[used], 0.25, 2, reduction="sum")
            wanted = self.coder.encode_single(boxes, anchors[positive])
            loss_bbox = loss_bbox + F.l1_loss(deltas[i][positive], wanted, reduction="sum")
            positives += max(1, int(positive.sum()))
        return {"loss_cls": loss_cls / positives, "loss_bbox": loss_bbox / positives}

    def _detect(
        self,
        scores: Sequence[Tensor],
        deltas: Sequence[Tensor],
        anchors: Sequence[Tensor],
        size: Size,
        original: Size,
    ) -> Detections:
        """Best 100 boxes of one image: 1,000 candidates a level over 0.05, suppression at 0.5 within each class."""
        boxes, values, labels = [], [], []
        for level_scores, level_deltas, level_anchors in zip(scores, deltas, anchors, strict=True):
            probabilities = level_scores.sigmoid()
            location, label = (probabilities > 0.05).nonzero(as_tuple=True)
            value = probabilities[location, label]
            value, best = value.sort(descending=True, stable=True)
            value, location, label = value[:1000], location[best][:1000], label[best][:1000]
            boxes.append(decode_boxes(self.coder, level_deltas[location], level_anchors[location], size))
            values.append(value)
            labels.append(label)
        boxes = rescale(torch.cat(boxes), size, original)
        return Detections(*best_boxes(boxes, torch.cat(values), torch.cat(labels), 0.5, 100))
