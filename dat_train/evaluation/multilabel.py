"""Average precision, F1 score and binary cross-entropy of a classifier with any number of labels per image."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from dat_train.data.batch import Batch, prepare_images
from dat_train.errors import UserError
from dat_train.evaluation.inference import gather_by_index, inference, require_images
from dat_train.runtime.precision import Precision
from dat_train.runtime.processes import Processes

THRESHOLD = 0.5  # probability from which a label counts as predicted


@dataclass(frozen=True)
class MultiLabelEvaluation:
    """Metrics of a multi-label classifier on a data set, and its logits. Identical in all processes.

    Attributes:
        map: mean of `class_ap` over the classes with at least one image, percent; NaN if there is none.
        f1: F1 score of all decisions over all images and classes together (micro average), percent.
        macro_f1: mean of `class_f1` over the classes with at least one image, percent; NaN if there is none.
        loss: mean binary cross-entropy over images and classes with the unsmoothed labels.
        count: number of readable images.
        unreadable: sorted paths of images that could not be read. They are excluded from all other attributes.
        class_ap: (classes,) average precision in percent; NaN for a class without images.
        class_f1: (classes,) F1 score in percent; NaN for a class without images.
        indices: (count,) int64, ascending, positions in the data set. The arrays below have the same order.
        labels: (count, classes) bool.
        predicted: (count, classes) bool, probability of at least 0.5; False if the logit is NaN.
        probabilities: (count, classes) float64.
    """

    map: float
    f1: float
    macro_f1: float
    loss: float
    count: int
    unreadable: list[str]
    class_ap: np.ndarray
    class_f1: np.ndarray
    indices: np.ndarray
    labels: np.ndarray
    predicted: np.ndarray
    probabilities: np.ndarray


def evaluate_multilabel(
    model: nn.Module, loader: Iterable[Batch], *, precision: Precision, processes: Processes | None = None
) -> MultiLabelEvaluation:
    """Evaluate a multi-label classifier; each process evaluates its part, and the logits are gathered.

    Args:
        model: images (B, C, H, W) -> logits (B, classes), on `precision.device`.
        loader: batches with labels (B, classes): 1, 0, or -1 in the row of an unreadable image.
        processes: None for a single process.

    Raises:
        UserError: no image could be read, or the model has another number of classes.
    """
    results, unreadable = [], []
    with inference(model, precision) as forward:
        for batch in loader:
            unreadable += batch.unreadable
            logits = forward(prepare_images(batch, precision.device, precision.weights_dtype))
            if logits.shape != batch.labels.shape:
                raise UserError(f"the model has {logits.shape[1]} classes, the data has {batch.labels.shape[1]}")
            logits = logits if precision.weights_dtype == torch.float64 else logits.float()
            results.append((batch.indices, batch.labels, logits))
    arrays, unreadable = gather_by_index(results, unreadable, processes)
    readable = (arrays[1] >= 0).all(1) if arrays else np.empty(0, bool)
    require_images(int(readable.sum()), unreadable)
    indices, labels, logits = (array[readable] for array in arrays)
    return _metrics(indices, labels == 1, logits.astype(np.float64), unreadable)


def _metrics(
    indices: np.ndarray, labels: np.ndarray, logits: np.ndarray, unreadable: list[str]
) -> MultiLabelEvaluation:
    """Metrics of logits (N, classes) with labels (N, classes), bool."""
    probabilities = torch.from_numpy(logits).sigmoid().numpy()
    predicted = probabilities >= THRESHOLD
    class_ap = np.array([average_precision(*column) for column in zip(labels.T, logits.T, strict=True)])
    hits, decided, true = (part.sum(0) for part in (labels & predicted, predicted, labels))
    class_f1 = np.where(true > 0, 2 * hits / np.maximum(true + decided, 1), np.nan)
    loss = F.binary_cross_entropy_with_logits(torch.from_numpy(logits), torch.from_numpy(labels).double())
    return MultiLabelEvaluation(
        map=_mean_percent(class_ap),
        f1=100 * 2 * int(hits.sum()) / max(int(true.sum() + decided.sum()), 1),
        macro_f1=_mean_percent(class_f1),
        loss=float(loss),
        count=len(labels),
        unreadable=unreadable,
        class_ap=100 * class_ap,
        class_f1=100 * class_f1,
        indices=indices,
        labels=labels,
        predicted=predicted,
        probabilities=probabilities,
    )


def average_precision(positive: np.ndarray, scores: np.ndarray) -> float:
    """Sum over the thresholds of (increase in recall) x precision.

    Samples with equal scores pass a threshold together; NaN counts as the lowest score.

    Args:
        positive: (N,) bool.
        scores: (N,).

    Returns:
        A value between 0 and 1; NaN without positive samples.

    Source: the definition of scikit-learn's average_precision_score.
    """
    if not positive.any():
        return float("nan")
    scores = np.where(np.isnan(scores), -np.inf, scores)
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    last = np.append(np.flatnonzero(ranked[1:] != ranked[:-1]), len(ranked) - 1)  # of each group of equal scores
    hits = np.cumsum(positive[order])[last]
    return float(np.sum(np.diff(hits, prepend=0) / hits[-1] * hits / (last + 1)))


def _mean_percent(values: np.ndarray) -> float:
    """Mean of the values that are not NaN, in percent; NaN if all are."""
    known = values[~np.isnan(values)]
    return 100 * float(known.mean()) if len(known) else float("nan")
