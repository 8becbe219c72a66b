"""RetinaNet: focal loss on dense anchors. Source: Lin et al., Focal Loss for Dense Object Detection, ICCV 2017."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.rpn import concat_box_prediction_layers
from torchvision.models.detection.transform import resize_boxes
from torchvision.ops import sigmoid_focal_loss

from dat_train.models.dense_backbone import ConvNormAct, DenseBackbone, DenseModel, full_precision, init_normal
from dat_train.models.detection.boxes import (
    IGNORED,
    Anchors,
    DeltaCoder,
    Detections,
    Size,
    best_boxes,
    level_candidates,
    match,
    matched,
)


class RetinaHead(nn.Module):
    """Two towers of convolutions shared by all levels.

    Shape: levels (B, channels, H, W) -> class logits (B, 9 * num_classes, H, W), deltas (B, 36, H, W), anchor-major.
    """

    def __init__(self, num_classes: int, channels: int = 256, convs: int = 4) -> None:
        super().__init__()

        def tower() -> nn.Sequential:
            layers = [ConvNormAct(channels, channels, 3, norm=False) for _ in range(convs)]
            for layer in layers:
                init_normal(layer.conv)
            return nn.Sequential(*layers)

        self.cls_convs, self.reg_convs = tower(), tower()
        self.anchors = Anchors((8, 16, 32, 64, 128), [4 * 2 ** (i / 3) for i in range(3)])
        self.retina_cls = init_normal(nn.Conv2d(channels, 9 * num_classes, 3, padding=1))
        self.retina_reg = init_normal(nn.Conv2d(channels, 9 * 4, 3, padding=1))
        nn.init.constant_(self.retina_cls.bias, -math.log(99))  # every score starts at 0.01

    def forward(self, levels: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        scores = [self.retina_cls(self.cls_convs(x)) for x in levels]
        return scores, [self.retina_reg(self.reg_convs(x)) for x in levels]


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
        anchors = self.bbox_head.anchors(levels)
        scores, deltas = concat_box_prediction_layers(*self.bbox_head(levels))
        scores = full_precision(scores).view(len(images), -1, self.num_classes)
        deltas = full_precision(deltas).view(len(images), -1, 4)
        if self.training:
            used = [self.bbox_head.anchors.valid(levels, size) for size in sizes]
            return self._losses(scores, deltas, torch.cat(anchors), used, targets)
        originals = [size if targets is None else targets[i].get("original", size) for i, size in enumerate(sizes)]
        return [
            self._detect(*image, anchors, size, original)
            for *image, size, original in zip(scores, deltas, sizes, originals, strict=True)
        ]

    def _losses(
        self, scores: Tensor, deltas: Tensor, anchors: Tensor, used: list[Tensor], targets: Sequence[dict]
    ) -> dict[str, Tensor]:
        """Focal and L1 loss, both divided by the positives of the batch (at least one per image)."""
        boxes, labels = ([target[key] for target in targets] for key in ("boxes", "labels"))
        assigned = scores.new_full(scores.shape[:2], IGNORED, dtype=torch.int64)
        for row, truth, inside in zip(assigned, boxes, used, strict=True):
            row[inside] = match(truth, anchors[inside], positive=0.5, negative=0.4, minimum=0.0)
        kept, positive = assigned != IGNORED, assigned > 0
        classes = torch.zeros_like(scores)
        classes[positive] = F.one_hot(matched(labels, assigned), self.num_classes).to(scores)
        loss_cls = sigmoid_focal_loss(scores[kept], classes[kept], 0.25, 2, reduction="sum")
        wanted = self.coder.encode_single(matched(boxes, assigned), anchors.expand_as(deltas)[positive])
        loss_bbox = F.l1_loss(deltas[positive], wanted, reduction="sum")
        count = positive.sum(1).clamp(min=1).sum()
        return {"loss_cls": loss_cls / count, "loss_bbox": loss_bbox / count}

    def _detect(
        self, scores: Tensor, deltas: Tensor, anchors: Sequence[Tensor], size: Size, original: Size
    ) -> Detections:
        """Best 100 boxes of one image: 1,000 candidates per level over 0.05, suppression at 0.5 within each class."""
        counts = [len(level) for level in anchors]
        levels = zip(scores.split(counts), deltas.split(counts), anchors, strict=True)
        boxes, scores, labels, _ = level_candidates(self.coder, levels, size, least=0.05, limit=1000)
        return Detections(*best_boxes(resize_boxes(boxes, size, original), scores, labels, 0.5, 100))
