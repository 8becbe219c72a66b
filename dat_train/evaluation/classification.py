"""Top-1 and top-5 accuracy and cross-entropy of an image classifier, exact for any number of processes."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dat_train.data.batch import Batch, prepare_images
from dat_train.data.dataset import UNREADABLE
from dat_train.errors import UserError
from dat_train.evaluation.inference import gather_by_index, inference, require_images
from dat_train.runtime.precision import Precision
from dat_train.runtime.processes import Processes

NO_PREDICTION = -1  # predicted class if a logit is NaN


@dataclass(frozen=True)
class ClassificationEvaluation:
    """Metrics of a classifier on a data set, and its prediction for each image. Identical in all processes.

    Attributes:
        top1, top5: accuracy in percent of `count`. Top-5 counts the min(5, classes) highest logits.
        loss: mean cross-entropy with the unsmoothed labels.
        count: number of readable images.
        unreadable: sorted paths of images that could not be read. They are excluded from all other attributes.
        indices: (count,) int64, ascending, positions in the data set. The arrays below have the same order.
        labels: (count,) int64.
        predicted: (count,) int64. Among equal logits, the lowest class number; -1 if a logit is NaN.
        confidence: (count,) float64, softmax probability of the predicted class; NaN if a logit is NaN.
    """

    top1: float
    top5: float
    loss: float
    count: int
    unreadable: list[str]
    indices: np.ndarray
    labels: np.ndarray
    predicted: np.ndarray
    confidence: np.ndarray


def evaluate(
    model: nn.Module,
    loader: Iterable[Batch],
    *,
    num_classes: int,
    precision: Precision,
    processes: Processes | None = None,
    subset: Sequence[int] | None = None,
    valid_labels: Tensor | None = None,
) -> ClassificationEvaluation:
    """Evaluate a classifier; each process evaluates its part of the data set, and the results are gathered.

    Processes and device are synchronized only after the last batch, so parts may differ in length and may be empty.

    Args:
        model: on `precision.device`, with logits (B, num_classes). May be compiled or wrapped in DDP.
        loader: batches with images (B, C, H, W), labels (B,), indices (B,) in the data set, and unreadable paths.
        num_classes: number of logits.
        processes: None for a single process.
        subset: class numbers that the model may choose from. None: all classes.
        valid_labels: (images of the data set, M) class numbers that are correct for each image, padded with -1.
            The label of an image is then the valid one with the highest logit. None: the labels of the loader.

    Raises:
        UserError: no image could be read, or labels or logits do not match `num_classes`.
    """
    results, unreadable = [], []
    # copied to the device once: copying from pageable memory waits for the device
    excluded = None if subset is None else _excluded_classes(num_classes, subset).to(precision.device)
    valid_labels = None if valid_labels is None else valid_labels.to(precision.device)
    with inference(model, precision) as forward:
        for batch in loader:
            _check_labels(batch.labels, num_classes)
            unreadable += batch.unreadable
            logits = forward(prepare_images(batch, precision.device, precision.weights_dtype))  # (B, classes)
            if logits.shape[1] != num_classes:
                raise UserError(f"the model has {logits.shape[1]} classes, but {num_classes} are expected")
            if excluded is not None:
                logits = logits.masked_fill(excluded & ~logits.isnan(), -torch.inf)
            labels = batch.labels.to(precision.device, non_blocking=True)
            if valid_labels is not None:
                indices = batch.indices.to(precision.device, non_blocking=True)
                labels = _most_likely_valid_label(logits, valid_labels[indices], labels)
            results.append((batch.indices, labels, *_sample_metrics(logits, labels)))
    return _aggregate(*gather_by_index(results, unreadable, processes))


def _excluded_classes(num_classes: int, subset: Sequence[int]) -> Tensor:
    """(num_classes,) bool, True for classes that are not in `subset`."""
    excluded = torch.ones(num_classes, dtype=torch.bool)
    excluded[list(subset)] = False
    return excluded


def _most_likely_valid_label(logits: Tensor, valid: Tensor, labels: Tensor) -> Tensor:
    """For each image, the class of `valid` (B, M), padded with -1, that has the highest logit. Returns (B,)."""
    scores = logits.gather(1, valid.clamp(min=0)).masked_fill(valid < 0, -torch.inf)
    chosen = valid.gather(1, scores.argmax(1, keepdim=True))[:, 0]
    return torch.where(labels == UNREADABLE, labels, chosen)


def _sample_metrics(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Predicted class, membership of the label in the top 5, loss and confidence of each sample, on the device.

    Ties are resolved by class number, because the order of equal values in `torch.topk` is undefined.

    Args:
        logits: (B, classes); labels: (B,), -1 for unreadable images.
    """
    logits = logits.to(torch.float32 if logits.device.type == "mps" else torch.float64)
    labels = labels.clamp(min=0)[:, None]  # unreadable images are removed in _aggregate, on the host
    classes = torch.arange(logits.shape[1], device=logits.device)
    label_logit = logits.gather(1, labels)
    ranked_higher = (logits > label_logit) | ((logits == label_logit) & (classes < labels))
    has_prediction = ~logits.isnan().any(1)
    log_probabilities = F.log_softmax(logits, dim=1)
    predicted = torch.where(has_prediction, logits.argmax(1), NO_PREDICTION)  # argmax: the first of equal values
    in_top5 = has_prediction & (ranked_higher.sum(1) < 5)
    return predicted, in_top5, -log_probabilities.gather(1, labels)[:, 0], log_probabilities.amax(1).exp()


def _aggregate(arrays: list[np.ndarray], unreadable: list[str]) -> ClassificationEvaluation:
    """Sums over the samples of all processes, in the order of the data set."""
    readable = arrays[1] != UNREADABLE if arrays else np.empty(0, bool)
    count = int(readable.sum())
    require_images(count, unreadable)
    indices, labels, predicted, in_top5, losses, confidence = (array[readable] for array in arrays)
    return ClassificationEvaluation(
        top1=100 * int((predicted == labels).sum()) / count,
        top5=100 * int(in_top5.sum()) / count,
        loss=float(losses.astype(np.float64).sum()) / count,
        count=count,
        unreadable=unreadable,
        indices=indices,
        labels=labels,
        predicted=predicted,
        confidence=confidence.astype(np.float64),
    )


def _check_labels(labels: Tensor, num_classes: int) -> None:
    """Check the labels on the host: on CUDA, a label out of range would abort the process in a device assertion."""
    if len(labels) and int(labels.max()) >= num_classes:
        raise UserError(
            f"the images have class number {int(labels.max())}; the model has classes 0 to {num_classes - 1}"
        )
