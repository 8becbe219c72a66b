"""Mask R-CNN and Cascade Mask R-CNN, and detectors made from a timm model name."""

from collections.abc import Sequence

from torch import Tensor, nn

from dat_train.choices import DETECTORS
from dat_train.errors import require_one_of
from dat_train.models.dense_backbone import (
    DenseBackbone,
    DenseModel,
    PooledLevel,
    Pyramid,
    StridedLevels,
    create_backbone,
)
from dat_train.models.detection.boxes import Detections, Size
from dat_train.models.detection.retinanet import RetinaHead, RetinaNet
from dat_train.models.detection.roi_heads import CASCADE_STDS, BoxHead, MaskHead, RoIHeads
from dat_train.models.detection.rpn import RPNHead


class MaskRCNN(DenseModel):
    """Two-stage detector with masks; Cascade Mask R-CNN with three stages of heads.

    Args:
        backbone: outputs at strides 4, 8, 16, 32.
        neck: pyramid of five levels, strides 4 to 64.
        rpn_head: proposals.
        roi_head: box and mask heads on the first four levels.
    """

    def __init__(self, backbone: DenseBackbone, neck: nn.Module, rpn_head: RPNHead, roi_head: RoIHeads) -> None:
        super().__init__()
        self.backbone = backbone
        self.neck = neck
        self.rpn_head = rpn_head
        self.roi_head = roi_head
        self.num_classes = roi_head.num_classes
        heads = [name for name, _ in self.named_modules() if name.endswith(("fc_cls", "fc_reg", "conv_logits"))]
        self.pretrained_cfg = {"classifier": tuple(heads)}

    def forward(
        self, images: Tensor, sizes: Sequence[Size] | None = None, targets: Sequence[dict] | None = None
    ) -> dict[str, Tensor] | list[Detections]:
        """Losses in training mode, detections otherwise.

        Args:
            images: (B, 3, H, W), padded right and below.
            sizes: (height, width) of each image before padding; None: no padding.
            targets: per image `boxes` (M, 4), `labels` (M,) and `masks` (M, h, w); in evaluation mode `original`, its
                size (h, w) before resizing, if it differs.
        """
        sizes = sizes or [tuple(images.shape[-2:])] * len(images)
        levels = self.neck(self.backbone(images))
        proposals, losses = self.rpn_head(levels, sizes, targets)
        if self.training:
            return losses | self.roi_head.losses(levels[:4], proposals, sizes, targets)
        originals = [size if targets is None else targets[i].get("original", size) for i, size in enumerate(sizes)]
        return self.roi_head.detect(levels[:4], proposals, sizes, originals)

    def no_weight_decay(self) -> set[str]:
        """Norms of the backbone and of the heads, and the relative position bias tables."""
        return super().no_weight_decay() | {name for name, _ in self.named_parameters() if ".bn." in name}


def create_detector(model: str, head: str, num_classes: int, channels: int = 256, **kwargs) -> RetinaNet | MaskRCNN:
    """Detector from a timm model name.

    Args:
        model: timm model name of the backbone.
        head: "retinanet", "mask_rcnn" or "cascade_mask_rcnn".
        num_classes: number of classes, background not counted.
        channels: width of pyramid and heads; linear layers have four times as many.
        kwargs: arguments of the timm model.

    Raises:
        UserError: unknown head, or a backbone without maps at the strides that it needs.
    """
    require_one_of("head", head, DETECTORS)
    if head == "retinanet":
        backbone = create_backbone(model, (8, 16, 32), **kwargs)
        neck = Pyramid(backbone.channels, channels, StridedLevels(backbone.channels[-1], channels, 2))
        return RetinaNet(backbone, neck, RetinaHead(num_classes, channels), num_classes)
    backbone = create_backbone(model, **kwargs)
    cascade = head == "cascade_mask_rcnn"
    extra = PooledLevel() if cascade else StridedLevels(backbone.channels[-1], channels, 1)
    neck = Pyramid(backbone.channels, channels, extra)
    if cascade:
        boxes = [BoxHead(channels, num_classes, 4 * channels, convs=4, stds=stds) for stds in CASCADE_STDS]
    else:
        boxes = [BoxHead(channels, num_classes, 4 * channels)]
    masks = [MaskHead(channels, num_classes, channels) for _ in boxes]
    rpn = RPNHead(channels, cascade, proposals=(2000 if cascade else 1000, 1000))
    return MaskRCNN(backbone, neck, rpn, RoIHeads(boxes, masks))
