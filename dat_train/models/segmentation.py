"""Semantic segmentation: UPerNet and Semantic FPN on a dense backbone, their loss and prediction.

Sources: Xiao et al., Unified Perceptual Parsing, ECCV 2018 (UPerNet); Kirillov et al., Panoptic Feature Pyramid
Networks, CVPR 2019 (Semantic FPN); settings of DAT++ (arXiv 2309.01430), section 4.3.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dat_train.choices import DECODERS
from dat_train.errors import require_one_of
from dat_train.models.dense_backbone import (
    ConvNormAct,
    DenseBackbone,
    DenseModel,
    Pyramid,
    create_backbone,
    full_precision,
    init_normal,
    resize,
)

IGNORED = 255  # label of pixels without a class


class UPerHead(nn.Module):
    """UPerNet decoder: pyramid pooling on the last map, top-down pyramid, fusion of all levels.

    Shape: four maps (B, in_channels[i], H / 2^i, W / 2^i) -> logits (B, num_classes, H, W).
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        channels: int,
        num_classes: int,
        dropout: float = 0.1,
        pool_scales: Sequence[int] = (1, 2, 3, 6),
    ) -> None:
        super().__init__()
        levels = len(in_channels)
        self.psp_modules = nn.ModuleList(
            nn.Sequential(nn.AdaptiveAvgPool2d(scale), ConvNormAct(in_channels[-1], channels, 1))
            for scale in pool_scales
        )
        self.bottleneck = ConvNormAct(in_channels[-1] + len(pool_scales) * channels, channels, 3)
        self.lateral_convs = nn.ModuleList(ConvNormAct(dim, channels, 1) for dim in in_channels[:-1])
        self.fpn_convs = nn.ModuleList(ConvNormAct(channels, channels, 3) for _ in in_channels[:-1])
        self.fpn_bottleneck = ConvNormAct(levels * channels, channels, 3)
        self.dropout = nn.Dropout2d(dropout)
        self.conv_seg = init_normal(nn.Conv2d(channels, num_classes, 1))

    def forward(self, maps: list[Tensor]) -> Tensor:
        last = maps[-1]
        pooled = [resize(module(last), last.shape[-2:]) for module in self.psp_modules]
        laterals = [conv(x) for conv, x in zip(self.lateral_convs, maps[:-1], strict=True)]
        laterals.append(self.bottleneck(torch.cat([last, *pooled], dim=1)))
        for i in range(len(laterals) - 1, 0, -1):
            laterals[i - 1] = laterals[i - 1] + resize(laterals[i], laterals[i - 1].shape[-2:])
        levels = [conv(x) for conv, x in zip(self.fpn_convs, laterals[:-1], strict=True)] + laterals[-1:]
        levels = [levels[0], *(resize(x, levels[0].shape[-2:]) for x in levels[1:])]
        return self.conv_seg(self.dropout(self.fpn_bottleneck(torch.cat(levels, dim=1))))


class SemanticFPNHead(nn.Module):
    """Semantic FPN decoder: convolutions and upsampling of each pyramid level to the finest one, and their sum.

    Shape: four pyramid levels (B, in_channels, H / 2^i, W / 2^i) -> logits (B, num_classes, H, W).
    """

    def __init__(self, in_channels: int, channels: int, num_classes: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.scale_heads = nn.ModuleList()
        for level in range(4):
            layers: list[nn.Module] = []
            for i in range(max(level, 1)):
                layers.append(ConvNormAct(in_channels if i == 0 else channels, channels, 3))
                if level > 0:
                    layers.append(nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False))
            self.scale_heads.append(nn.Sequential(*layers))
        self.dropout = nn.Dropout2d(dropout)
        self.conv_seg = init_normal(nn.Conv2d(channels, num_classes, 1))

    def forward(self, maps: list[Tensor]) -> Tensor:
        total = self.scale_heads[0](maps[0])
        for head, x in zip(self.scale_heads[1:], maps[1:], strict=True):
            total = total + resize(head(x), total.shape[-2:])
        return self.conv_seg(self.dropout(total))


class AuxiliaryHead(nn.Module):
    """Fully convolutional head on one map, for an additional loss in training."""

    def __init__(self, in_channels: int, channels: int, num_classes: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.convs = nn.ModuleList([ConvNormAct(in_channels, channels, 3)])
        self.dropout = nn.Dropout2d(dropout)
        self.conv_seg = init_normal(nn.Conv2d(channels, num_classes, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.conv_seg(self.dropout(self.convs[0](x)))


class SegmentationModel(DenseModel):
    """Backbone, optional pyramid, decoder, and optional auxiliary head on the third map (stride 16).

    Shape: images (B, 3, H, W) -> logits at stride 4 (B, num_classes, ceil(H / 4), ceil(W / 4)); in training mode a
    pair of these and the auxiliary logits, or None without an auxiliary head.
    """

    def __init__(
        self,
        backbone: DenseBackbone,
        decode_head: nn.Module,
        neck: nn.Module | None = None,
        auxiliary_head: AuxiliaryHead | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.neck = neck
        self.decode_head = decode_head
        self.auxiliary_head = auxiliary_head
        self.num_classes = decode_head.conv_seg.out_channels
        heads = ("decode_head.conv_seg", "auxiliary_head.conv_seg")
        self.pretrained_cfg = {"classifier": heads if auxiliary_head else heads[:1]}

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, Tensor | None]:
        maps = self.backbone(images)
        logits = self.decode_head(maps if self.neck is None else self.neck(maps))
        if not self.training:
            return logits
        return logits, None if self.auxiliary_head is None else self.auxiliary_head(maps[2])


def create_segmentation(
    model: str,
    head: str,
    num_classes: int,
    channels: int | None = None,
    dropout: float = 0.1,
    **kwargs,
) -> SegmentationModel:
    """Segmentation model from a timm model name.

    Args:
        model: timm model name of the backbone.
        head: "upernet" or "semantic_fpn".
        num_classes: number of classes.
        channels: width of the decoder; default as published: 512 (upernet), 128 (semantic_fpn).
        dropout: probability of dropping a channel before the classifier, in training.
        kwargs: arguments of the timm model.

    Raises:
        UserError: unknown head, or a backbone without maps at strides 4, 8, 16 and 32.
    """
    require_one_of("head", head, DECODERS)
    backbone = create_backbone(model, **kwargs)
    if head == "upernet":
        channels = channels or 512
        decoder = UPerHead(backbone.channels, channels, num_classes, dropout)
        auxiliary = AuxiliaryHead(backbone.channels[2], channels // 2, num_classes, dropout)
        return SegmentationModel(backbone, decoder, auxiliary_head=auxiliary)
    channels = channels or 128
    decoder = SemanticFPNHead(2 * channels, channels, num_classes, dropout)
    return SegmentationModel(backbone, decoder, neck=Pyramid(backbone.channels, 2 * channels))


def segmentation_loss(logits: Tensor, labels: Tensor, class_weights: Tensor | None = None) -> Tensor:
    """Cross-entropy of logits resized to the labels' size, divided by all pixels, ignored ones included.

    Args:
        logits: (B, num_classes, h, w).
        labels: (B, H, W) int64, 255 ignored.
        class_weights: (num_classes,) factor of the loss of pixels of each class; None: 1.

    Returns:
        Scalar. torch's mean would divide by the valid pixels only; the published models divide by all pixels.
    """
    logits = resize(full_precision(logits), labels.shape[-2:])
    if class_weights is not None:
        class_weights = class_weights.to(logits)
    total = F.cross_entropy(logits, labels, class_weights, ignore_index=IGNORED, reduction="sum")
    return total / labels.numel()


def segmentation_logits(model: SegmentationModel, images: Tensor, size: Sequence[int]) -> Tensor:
    """Logits at the original size: resized to the network input's size, then to `size`, as published."""
    return resize(resize(full_precision(model(images)), images.shape[-2:]), size)


def segmentation_probabilities(
    model: SegmentationModel, views: Sequence[Tensor], size: Sequence[int], flip: bool = False
) -> Tensor:
    """Class probabilities at the original size, averaged over several views of the same images.

    Args:
        model: in evaluation mode.
        views: images (B, 3, H, W) at one or several scales.
        size: original (height, width).
        flip: also the mirror image of each view.

    Returns:
        (B, num_classes, *size), float32.
    """
    total = 0
    for view in views:
        total = total + segmentation_logits(model, view, size).softmax(1)
        if flip:
            total = total + segmentation_logits(model, view.flip(-1), size).flip(-1).softmax(1)
    return total / (len(views) * (2 if flip else 1))
