"""Workloads of benchmarked models by task: creation, random targets, multiply-accumulates and the training loss."""

from typing import Any

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dat_train.choices import DECODERS, DETECTORS
from dat_train.errors import UserError
from dat_train.models import count_macs
from dat_train.models.detection.rcnn import MaskRCNN, create_detector
from dat_train.models.detection.retinanet import RetinaNet
from dat_train.models.segmentation import create_segmentation, segmentation_loss

ADE20K_CLASSES, COCO_CLASSES = 150, 80
OBJECTS = 8  # per image; COCO has seven on average
AUXILIARY_WEIGHT = 0.4

Size = tuple[int, int]  # (height, width)


class Classification:
    """Classifiers of timm."""

    def create(self, name: str, **arguments: Any) -> nn.Module:
        return timm.create_model(name, **arguments)

    def macs(self, model: nn.Module, size: Size) -> int:
        return count_macs(model, size)

    def targets(self, model: nn.Module, images: Tensor) -> Any:
        return torch.randint(model.num_classes, (len(images),), device=images.device)

    def loss(self, forward: nn.Module, images: Tensor, targets: Any) -> Tensor:
        return F.cross_entropy(forward(images).float(), targets)


class Segmentation(Classification):
    """Segmentation models with ADE20K's number of classes.

    Args:
        head: "upernet" or "semantic_fpn".
        channels: width of the decoder; None: as published.
    """

    def __init__(self, head: str, channels: int | None = None) -> None:
        self.head = head
        self.channels = channels

    def create(self, name: str, **arguments: Any) -> nn.Module:
        return create_segmentation(name, self.head, ADE20K_CLASSES, self.channels, **arguments)

    def targets(self, model: nn.Module, images: Tensor) -> Any:
        return torch.randint(ADE20K_CLASSES, (len(images), *images.shape[-2:]), device=images.device)

    def loss(self, forward: nn.Module, images: Tensor, targets: Any) -> Tensor:
        logits, auxiliary = forward(images)
        loss = segmentation_loss(logits, targets)
        return loss if auxiliary is None else loss + AUXILIARY_WEIGHT * segmentation_loss(auxiliary, targets)


class Detection(Classification):
    """Detectors with COCO's number of classes.

    With random weights no score is above the threshold, so that inference computes no masks.

    Args:
        head: "retinanet", "mask_rcnn" or "cascade_mask_rcnn".
        channels: width of pyramid and heads; None: as published.
    """

    def __init__(self, head: str, channels: int | None = None) -> None:
        self.head = head
        self.channels = channels

    def create(self, name: str, **arguments: Any) -> nn.Module:
        width = {"channels": self.channels} if self.channels else {}
        return create_detector(name, self.head, COCO_CLASSES, **width, **arguments)

    def macs(self, model: nn.Module, size: Size) -> int:
        return count_macs(CountedDetector(model), size)

    def targets(self, model: nn.Module, images: Tensor) -> Any:
        height, width = images.shape[-2:]
        corners = torch.rand(OBJECTS, 2, device=images.device) * images.new_tensor([width / 2, height / 2]).float()
        boxes = torch.cat([corners, corners + 32], dim=1)
        target = {"boxes": boxes, "labels": torch.randint(COCO_CLASSES, (OBJECTS,), device=images.device)}
        if self.head != "retinanet":
            target["masks"] = torch.ones(OBJECTS, height, width, dtype=torch.bool, device=images.device)
        return [target] * len(images)

    def loss(self, forward: nn.Module, images: Tensor, targets: Any) -> Tensor:
        return sum(forward(images, None, targets).values())


class CountedDetector(nn.Module):
    """Layers of a detector for counting: no matching, no suppression, 1,000 regions, 100 masks, as in mmdetection."""

    def __init__(self, model: RetinaNet | MaskRCNN) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> None:
        levels = self.model.neck(self.model.backbone(images))
        if isinstance(self.model, RetinaNet):
            self.model.bbox_head(levels)
            return
        self.model.rpn_head.outputs(levels)
        channels = levels[0].shape[1]
        for head in self.model.roi_head.bbox_head:
            head(images.new_empty(1000, channels, 7, 7))
        for head in self.model.roi_head.mask_head:
            head(images.new_empty(100, channels, 14, 14))


DEFAULT_HEADS = {"segmentation": "upernet", "detection": "mask_rcnn"}
DEFAULT_SIZES = {"segmentation": (512, 512), "detection": (800, 1088)}  # training crop; 4:3 image, padded to 32


def workload(task: str, head: str | None, channels: int | None) -> Classification:
    """The workload of a task: "models" (classification), "segmentation" or "detection".

    Raises:
        UserError: a head of another task.
    """
    if task == "models":
        return Classification()
    of_task = DECODERS if task == "segmentation" else DETECTORS
    head = head or DEFAULT_HEADS[task]
    if head not in of_task:
        raise UserError(f"dense.head={head} does not belong to {task}, which has {', '.join(of_task)}")
    return Segmentation(head, channels) if task == "segmentation" else Detection(head, channels)
