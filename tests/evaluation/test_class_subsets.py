"""Evaluation with a subset of the classes, and with several valid labels for an image."""

import pytest
import torch
from torch import nn

from dat_train.data.loader import Batch
from dat_train.evaluation.classification import evaluate
from dat_train.runtime.precision import resolve_precision

FP32 = resolve_precision("fp32", torch.device("cpu"))
LOGITS = torch.tensor([[5.0, 4.0, 3.0, 0.0], [0.0, 5.0, 1.0, 2.0], [1.0, 0.0, 3.0, 2.0]])


def evaluated(labels, **settings):
    batch = Batch(LOGITS[:, :, None, None], torch.tensor(labels), torch.arange(3), [])
    return evaluate(nn.Flatten(), [batch], num_classes=4, precision=FP32, **settings)


def test_predictions_are_restricted_to_the_subset():
    found = evaluated([1, 3, 3], subset=[1, 3])
    assert found.predicted.tolist() == [1, 1, 3]
    assert found.top1 == pytest.approx(200 / 3)
    assert found.confidence.tolist() == pytest.approx(LOGITS[:, [1, 3]].softmax(1).amax(1).tolist())
    want = -LOGITS[:, [1, 3]].log_softmax(1)[range(3), [0, 1, 1]].mean()
    assert found.loss == pytest.approx(want.item())
    assert evaluated([1, 3, 3]).predicted.tolist() == [0, 1, 2]


def test_each_of_several_valid_labels_counts_as_correct():
    valid = torch.tensor([[1, 0], [3, -1], [0, 3]])
    found = evaluated([1, 3, 0], valid_labels=valid)
    assert found.predicted.tolist() == [0, 1, 2] and found.labels.tolist() == [0, 3, 3]
    assert found.top1 == pytest.approx(100 / 3)


def test_unreadable_images_are_excluded_with_several_valid_labels():
    found = evaluated([-1, 3, 0], valid_labels=torch.tensor([[1, 0], [3, -1], [0, 2]]))
    assert found.count == 2 and found.top1 == 50
