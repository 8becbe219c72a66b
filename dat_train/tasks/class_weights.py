"""Cross-entropy weighted by class, for training sets whose classes differ in size."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


class WeightedCrossEntropy:
    """Cross-entropy with soft targets t and a weight w for each class: the mean over samples of -sum_c w_c t_c log p_c.

    The mean is over the samples of the batch, not over their weights, so that the loss of a batch is the mean of the
    losses of its micro-batches, for any distribution over processes.

    Args:
        weights: (classes,).
    """

    def __init__(self, weights: Tensor) -> None:
        self.weights = weights

    def __call__(self, logits: Tensor, targets: Tensor, images: Tensor) -> Tensor:
        """Logits and soft targets (B, classes) -> () in the targets' number format."""
        return F.cross_entropy(logits.to(targets.dtype), targets, weight=self.weights.to(targets.dtype))


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
