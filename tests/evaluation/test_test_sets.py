"""A part of the classes, and several right answers."""

import pytest
import torch
from torch import nn

from dat_train.data.loader import Batch
from dat_train.evaluation.metrics import evaluate

LOGITS = torch.tensor([[5.0, 4.0, 3.0, 0.0], [0.0, 5.0, 1.0, 2.0], [1.0, 0.0, 3.0, 2.0]])


def judged(labels, **settings):
    batch = Batch(LOGITS[:, :, None, None], torch.tensor(labels), torch.arange(3), [])
    return evaluate(nn.Flatten(), [batch], device=torch.device("cpu"), dtype=torch.float32, num_classes=4, **settings)


def test_a_model_chooses_among_the_classes_that_occur():
    found = judged([1, 3, 3], subset=[1, 3])
    assert found.predicted.tolist() == [1, 1, 3]
    assert found.top1 == pytest.approx(200 / 3)
    assert found.confidence.tolist() == pytest.approx(LOGITS[:, [1, 3]].softmax(1).amax(1).tolist())
    want = -LOGITS[:, [1, 3]].log_softmax(1)[range(3), [0, 1, 1]].mean()
    assert found.loss == pytest.approx(want.item())
    assert judged([1, 3, 3]).predicted.tolist() == [0, 1, 2]


def test_any_of_several_right_answers_counts():
    right = torch.tensor([[1, 0], [3, -1], [0, 3]])
    found = judged([1, 3, 0], right=right)
    assert found.predicted.tolist() == [0, 1, 2] and found.labels.tolist() == [0, 3, 3]
    assert found.top1 == pytest.approx(100 / 3)


def test_what_cannot_be_read_is_in_no_number_here_either():
    found = judged([-1, 3, 0], right=torch.tensor([[1, 0], [3, -1], [0, 2]]))
    assert found.count == 2 and found.top1 == 50
