"""Intersection over union and pixel accuracy of a segmentation model, exact for any number of processes."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from dat_train.data.scenes.segmentation_dataset import EvaluationScene
from dat_train.evaluation.inference import inference, require_images
from dat_train.models.segmentation import IGNORED, segmentation_logits, segmentation_probabilities
from dat_train.runtime.precision import Precision
from dat_train.runtime.processes import Processes


@dataclass(frozen=True)
class SegmentationEvaluation:
    """Metrics of a segmentation model on a data set. Identical in all processes.

    Attributes:
        miou: mean intersection over union of the classes that occur, percent.
        pixel_accuracy: percent of valid pixels with the right class.
        class_iou: (classes,) percent; NaN for a class that neither occurs nor is predicted.
        confusion: (classes, classes) int64 pixels by true (row) and predicted class, at original size.
        image_indices: (images,) int64, ascending, positions in the data set.
        image_iou: (images,) mean intersection over union within each image, percent; NaN without valid pixels.
        unreadable: sorted paths of images that could not be read. They are excluded from all other attributes.
    """

    miou: float
    pixel_accuracy: float
    class_iou: np.ndarray
    confusion: np.ndarray
    image_indices: np.ndarray
    image_iou: np.ndarray
    unreadable: list[str]

    @property
    def count(self) -> int:
        return len(self.image_indices)

    @property
    def mean_accuracy(self) -> float:
        """Pixel accuracy within each class, averaged over the classes that occur, percent."""
        pixels = self.confusion.sum(1)
        return float(100 * (np.diag(self.confusion)[pixels > 0] / pixels[pixels > 0]).mean()) if pixels.any() else 0.0

    def worst(self, number: int) -> np.ndarray:
        """Positions, in the arrays of images, of the `number` lowest intersections over union, lowest first."""
        known = np.flatnonzero(~np.isnan(self.image_iou))
        return known[np.argsort(self.image_iou[known], kind="stable")][:number]


def evaluate_segmentation(
    model: nn.Module,
    loader: Iterable[Sequence[EvaluationScene]],
    *,
    num_classes: int,
    precision: Precision,
    processes: Processes | None = None,
    flip: bool = False,
) -> SegmentationEvaluation:
    """Evaluate a segmentation model at the original size of each image, one image at a time.

    Each process evaluates its part, and pixel counts are gathered, so the number of processes changes no result.

    Args:
        model: images (B, 3, H, W) -> logits (B, num_classes, h, w), on `precision.device`.
        loader: lists of scenes; the probabilities of a scene's views are averaged.
        flip: also average over the mirror image of each view.

    Raises:
        UserError: no image could be read.
    """
    confusion = np.zeros((num_classes, num_classes), np.int64)
    rows, unreadable = [], []
    with inference(model, precision) as forward:
        for scenes in loader:
            for scene in scenes:
                unreadable += scene.unreadable
                if not scene.views:
                    continue
                predicted = predicted_classes(forward, scene.views, scene.labels.shape, flip)
                counts = confusion_of(predicted, scene.labels.to(predicted.device), num_classes)
                confusion += counts
                rows.append((scene.index, mean_iou(counts)))
    shares = processes.gather((confusion, rows, unreadable)) if processes else [(confusion, rows, unreadable)]
    rows = sorted(row for _, share, _ in shares for row in share)
    unreadable = sorted(path for *_, share in shares for path in share)
    require_images(len(rows), unreadable)
    confusion = sum(share for share, *_ in shares)
    return SegmentationEvaluation(
        miou=mean_iou(confusion),
        pixel_accuracy=100 * float(np.trace(confusion)) / max(int(confusion.sum()), 1),
        class_iou=class_ious(confusion),
        confusion=confusion,
        image_indices=np.array([index for index, _ in rows], np.int64),
        image_iou=np.array([iou for _, iou in rows]),
        unreadable=unreadable,
    )


def predicted_classes(forward, views: Sequence[Tensor], size: Sequence[int], flip: bool = False) -> Tensor:
    """Class (H, W) of every pixel at the original size.

    Args:
        forward: images (1, 3, h, w) -> logits.
        views: (3, h, w) at one or several scales.
        size: original (height, width).
        flip: also use mirror images.
    """
    batches = [view[None] for view in views]
    if len(batches) == 1 and not flip:
        return segmentation_logits(forward, batches[0], size)[0].argmax(0)
    return segmentation_probabilities(forward, batches, size, flip)[0].argmax(0)


def confusion_of(predicted: Tensor, labels: Tensor, num_classes: int) -> np.ndarray:
    """Pixels by true and predicted class (classes, classes) int64; ignored pixels are left out."""
    valid = labels != IGNORED
    pairs = labels[valid].long() * num_classes + predicted[valid]
    return torch.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes).cpu().numpy()


def class_ious(confusion: np.ndarray) -> np.ndarray:
    """Intersection over union of each class in percent; NaN without pixels."""
    intersection = np.diag(confusion)
    union = confusion.sum(0) + confusion.sum(1) - intersection
    return np.where(union > 0, 100 * intersection / np.maximum(union, 1), np.nan)


def mean_iou(confusion: np.ndarray) -> float:
    """Mean intersection over union of the classes that have pixels, percent; NaN if none has."""
    ious = class_ious(confusion)
    return float(np.nanmean(ious)) if (~np.isnan(ious)).any() else float("nan")
