"""Cross-entropy weighted by class compared with its formula and with scikit-learn's weights."""

import json
from functools import partial

import numpy as np
import pytest
import torch
from commands.composing import composed
from commands.in_process import train
from PIL import Image
from sklearn.utils.class_weight import compute_class_weight

from dat_train.commands.build_task import task_builders
from dat_train.data.dataset import ImageDataset
from dat_train.errors import UserError
from dat_train.runtime.precision import resolve_precision
from dat_train.tasks.losses import balanced_weights, cross_entropy

LABELS = [0] * 12 + [1] * 3 + [3] * 1  # class 2 has no image
CPU = torch.device("cpu")


def test_weights_are_scikit_learns_and_have_a_mean_of_one_over_the_samples():
    weights = balanced_weights(LABELS, 4).numpy()
    expected = compute_class_weight("balanced", classes=np.array([0, 1, 3]), y=LABELS)
    assert weights[[0, 1, 3]] == pytest.approx(expected, rel=1e-15) and weights[2] == 0
    assert weights[LABELS].mean() == pytest.approx(1, rel=1e-15)


def test_the_loss_is_its_formula_and_the_mean_of_its_micro_batches():
    torch.manual_seed(0)
    logits, targets = torch.randn(6, 4).double(), torch.rand(6, 4).double().softmax(1)
    weights = balanced_weights(LABELS, 4)
    loss = partial(cross_entropy, weights=weights)
    expected = -(weights * targets * logits.log_softmax(1)).sum(1).mean()
    assert loss(logits, targets, None).item() == pytest.approx(expected.item(), rel=1e-12)
    halves = [loss(logits[part], targets[part], None).item() for part in (slice(0, 3), slice(3, 6))]
    assert np.mean(halves) == pytest.approx(expected.item(), rel=1e-12)


def task(*settings):
    config = composed("model=dat_nano", "data=fake", "loss.class_weights=balanced", *settings)
    images = ImageDataset([(str(i), label) for i, label in enumerate(LABELS)], list("abcd"))
    return task_builders(config).task(config, images, resolve_precision("fp32", CPU))


def test_the_setting_takes_the_counts_of_the_training_set():
    assert torch.equal(task().objective.keywords["weights"], balanced_weights(LABELS, 4).float())


@pytest.mark.parametrize(("settings", "message"), [
    (["data.sampling=balanced"], "both balance the classes; set one of them"),
    (["distill.teacher=resnet18"], "not possible with a teacher"),
])  # fmt: skip
def test_settings_that_exclude_each_other_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        task(*settings)


def test_a_rare_class_weighs_more_in_a_real_run(tmp_path):
    rng = np.random.default_rng(0)
    for label, images in (("rare", 2), ("usual", 14)):
        for part in ("train", "val"):
            (tmp_path / "data" / part / label).mkdir(parents=True)
            for i in range(images):
                pixels = rng.integers(0, 256, (32, 32, 3), np.uint8)
                Image.fromarray(pixels).save(tmp_path / "data" / part / label / f"{i}.png")
    settings = ["model=dat_nano", "data=folder", f"data.root={tmp_path / 'data'}", "augment=none", "max_steps=1"]
    losses = []
    for name, more in (("plain", []), ("weighted", ["loss.class_weights=balanced"])):
        train(tmp_path, name, *settings, "batch_size=8", "micro_batch_size=4", "log.every=1", *more)
        rows = [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        losses.append(next(row["loss"] for row in rows if "loss" in row))
    assert losses[0] != losses[1]
