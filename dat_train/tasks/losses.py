"""Losses of classification: cross-entropy, weighted by class or not, and binary cross-entropy of every class.

A loss is called with logits (B, classes), soft targets (B, classes) and images (B, C, H, W), which distillation needs.
It returns () in the dtype of the targets. Label smoothing is part of the soft targets made in data/mixing.py.
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from timm import loss
from torch import Tensor


def cross_entropy(logits: Tensor, targets: Tensor, images: Tensor, weights: Tensor | None = None) -> Tensor:
    """Cross-entropy with soft targets t: the mean over the samples of -sum_c w_c t_c log p_c.

    The mean is over the samples of the batch, not over their weights, so that the loss of a batch is the mean of the
    losses of its micro-batches, for any distribution over processes.

    Args:
        weights: (classes,) factor w of each class; None: 1.
    """
    weights = None if weights is None else weights.to(targets.dtype)
    return F.cross_entropy(logits.to(targets.dtype), targets, weight=weights)


class BinaryCrossEntropy:
    """Binary cross-entropy with soft targets: the classes of an image are independent of each other.

    Args:
        target_threshold: targets above it become 1, the others 0, so that both classes of a mixed image count fully;
            None keeps the targets.
        sum_classes: sum over the classes, instead of their mean.
        pos_weight: (classes,) factor on the loss of the images that have the class; None: 1.

    Source: Wightman et al., "ResNet strikes back" (2021), section 3.2; Beyer et al., 2020. Computed by timm.
    """

    def __init__(
        self, target_threshold: float | None = None, sum_classes: bool = False, pos_weight: Tensor | None = None
    ) -> None:
        # smoothing=0.0: label smoothing is part of the targets
        options = {"target_threshold": target_threshold, "sum_classes": sum_classes, "pos_weight": pos_weight}
        self.loss = loss.BinaryCrossEntropy(0.0, **options)

    def __call__(self, logits: Tensor, targets: Tensor, images: Tensor) -> Tensor:
        return self.loss(logits.to(targets.dtype), targets)


def balanced_weights(labels: Sequence[int], num_classes: int) -> Tensor:
    """Weights inversely proportional to the sizes of the classes, with a mean of 1 over the samples.

    For N samples in K classes, a class with n_c samples has the weight N / (K n_c); a class without samples has 0 and
    is not counted in K.

    Args:
        labels: (N,) class numbers of the training set.

    Returns:
        (num_classes,) float64.

    Source: the formula of scikit-learn's class_weight="balanced", after King and Zeng, "Logistic Regression in Rare
    Events Data", Political Analysis 9 (2001).
    """
    counts = torch.bincount(torch.as_tensor(labels, dtype=torch.int64), minlength=num_classes).double()
    present = counts > 0
    weights = counts.sum() / (present.sum() * counts.clamp(min=1))
    return torch.where(present, weights, 0.0)


def positive_weights(targets: np.ndarray) -> Tensor:
    """Number of images without a label over the number of images with it; 1 for a label without images.

    A label then counts in the loss as if half of the images had it.

    Args:
        targets: (images, classes) bool, of the training set.

    Returns:
        (classes,) float64.

    Source: `pos_weight` in the documentation of torch.nn.BCEWithLogitsLoss.
    """
    positive = torch.from_numpy(targets.sum(0, dtype=np.int64)).double()
    return torch.where(positive > 0, (len(targets) - positive) / positive.clamp(min=1), 1.0)
