"""Training objectives compared with their equations."""

import pytest
import torch

from dat_train.errors import UserError
from dat_train.runtime.precision import resolve_precision
from dat_train.tasks.distillation import Distillation
from dat_train.tasks.losses import cross_entropy

CPU = torch.device("cpu")
STATISTICS = {
    "mean": [0.5, 0.4, 0.3],
    "std": [0.2, 0.3, 0.4],
    "teacher_mean": [0.1, 0.2, 0.3],
    "teacher_std": [1.0, 0.5, 2.0],
}


class Teacher(torch.nn.Module):
    """Linear in the image's channel means; counts its calls."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.linear = torch.nn.Linear(3, 5).double()
        self.dropout = torch.nn.Dropout(0.9)
        self.seen = []

    def forward(self, images):
        self.seen.append(images)
        return self.dropout(self.linear(images.mean((2, 3))))


def distillation(**settings):
    settings = {"kind": "soft", "alpha": 0.3, "tau": 3.0, "precision": resolve_precision("fp64", CPU)} | settings
    return Distillation(Teacher(), **settings | STATISTICS)


@pytest.fixture
def batch():
    torch.manual_seed(1)
    logits = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
    return logits, torch.randn(4, 5, dtype=torch.float64).softmax(1), torch.randn(4, 3, 6, 6, dtype=torch.float64)


def test_soft_distillation_is_the_papers_equation(batch):
    logits, targets, images = batch
    loss = distillation()
    teacher = loss.answers(images)
    p, q = (teacher / 3).softmax(1), (logits / 3).softmax(1)
    kl = (p * (p / q).log()).sum(1).mean()
    want = 0.7 * -(targets * logits.log_softmax(1)).sum(1).mean() + 0.3 * 9 * kl
    assert loss(*batch).item() == pytest.approx(want.item(), rel=1e-12)
    loss(*batch).backward()
    assert logits.grad.abs().sum() > 0 and all(p.grad is None for p in loss.teacher.parameters())


def test_hard_distillation_follows_the_teachers_decision(batch):
    logits, targets, images = batch
    loss = distillation(kind="hard", alpha=0.5)
    decision = loss.answers(images).argmax(1)
    want = 0.5 * cross_entropy(logits, targets, images) - 0.5 * logits.log_softmax(1)[range(4), decision].mean()
    assert loss(*batch).item() == pytest.approx(want.item(), rel=1e-12)


def test_the_teacher_gets_images_in_its_normalization_and_has_no_dropout(batch):
    loss = distillation()
    first, second = loss.answers(batch[2]), loss.answers(batch[2])
    assert torch.equal(first, second)
    at = {name: torch.tensor(values, dtype=torch.float64).view(1, 3, 1, 1) for name, values in STATISTICS.items()}
    pixels = batch[2] * at["std"] + at["mean"]
    assert torch.allclose(loss.teacher.seen[0], (pixels - at["teacher_mean"]) / at["teacher_std"])


def test_an_unknown_kind_is_refused():
    with pytest.raises(UserError, match=r"distill\.kind=warm must be one of soft, hard"):
        distillation(kind="warm")
