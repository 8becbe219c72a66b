"""Binary cross-entropy compared with its formula."""

import pytest
import torch
from commands.composing import composed

from dat_train.commands.build_task import task_builders
from dat_train.data.dataset import ImageDataset
from dat_train.errors import UserError
from dat_train.runtime.precision import resolve_precision
from dat_train.tasks.losses import BinaryCrossEntropy

LOGITS = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)).double()
TARGETS = torch.tensor([[0.9, 0.1, 0, 0], [0.3, 0.7, 0, 0], [0, 0, 1, 0], [0.2, 0, 0, 0.8]] * 2)[:6].double()


def formula(targets):
    p = LOGITS.sigmoid()
    return -(targets * p.log() + (1 - targets) * (1 - p).log())


def test_the_loss_is_the_mean_over_images_and_classes():
    assert BinaryCrossEntropy()(LOGITS, TARGETS, None).item() == pytest.approx(formula(TARGETS).mean().item())
    summed = BinaryCrossEntropy(sum_classes=True)(LOGITS, TARGETS, None)
    assert summed.item() == pytest.approx(formula(TARGETS).sum(1).mean().item())


def test_targets_above_the_threshold_count_fully():
    found = BinaryCrossEntropy(0.2)(LOGITS, TARGETS, None)
    assert found.item() == pytest.approx(formula((TARGETS > 0.2).double()).mean().item())


def test_the_loss_of_a_batch_is_the_mean_of_its_micro_batches():
    loss = BinaryCrossEntropy(0.2)
    halves = [loss(LOGITS[part], TARGETS[part], None).item() for part in (slice(0, 3), slice(3, 6))]
    assert sum(halves) / 2 == pytest.approx(loss(LOGITS, TARGETS, None).item())


def task(*settings):
    config = composed("model=dat_nano", "data=fake", *settings)
    images = ImageDataset([(str(i), i % 2) for i in range(4)], list("ab"))
    return task_builders(config).task(config, images, resolve_precision("fp32", torch.device("cpu")))


def test_the_settings_reach_the_loss():
    assert task("loss.name=bce", "loss.target_threshold=0.2").objective.loss.target_threshold == 0.2
    assert task("mixing.off_epoch=3", "batch_size=2", "micro_batch_size=2").mixing.off_step == 6


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        (["loss.name=bce", "loss.class_weights=balanced"], "loss.name=bce and loss.class_weights=balanced exclude"),
        (["loss.name=bce", "distill.teacher=resnet18"], "loss.name=bce and distill.teacher=resnet18 exclude each"),
        (["loss.target_threshold=0.2"], "loss.target_threshold and loss.sum_classes belong to loss.name=bce, not to"),
    ],
)
def test_settings_that_exclude_each_other_are_one_line(settings, text):
    with pytest.raises(UserError) as caught:
        task(*settings)
    assert str(caught.value).startswith(text)
