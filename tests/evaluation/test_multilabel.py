"""Metrics of several labels per image, compared with scikit-learn's."""

import csv
import json

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, f1_score

from dat_train.data.batch import Batch
from dat_train.errors import UserError
from dat_train.evaluation.multilabel import average_precision, evaluate_multilabel
from dat_train.evaluation.multilabel_files import multilabel_text, per_class, write_multilabel_report
from dat_train.runtime.precision import resolve_precision

FP64 = resolve_precision("fp64", torch.device("cpu"))
CLASSES = ["cat", "dog", "none", "tree"]


class Logits(torch.nn.Module):
    """Model whose logits are its images."""

    def forward(self, images):
        return images.flatten(1)


def batches(labels, logits, size=4, unreadable=()):
    for first in range(0, len(labels), size):
        part = slice(first, first + size)
        yield Batch(
            torch.tensor(logits[part])[:, :, None, None],
            torch.tensor(labels[part], dtype=torch.int8),
            torch.arange(len(labels))[part],
            list(unreadable) if first == 0 else [],
        )


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, (30, 4))
    labels[:, 2] = 0  # a class without images
    return labels, rng.normal(0, 2, (30, 4)) + 2 * labels - 1


def test_the_metrics_are_scikit_learns(data):
    labels, logits = data
    found = evaluate_multilabel(Logits(), batches(labels, logits), precision=FP64)
    expected = [100 * average_precision_score(labels[:, k], logits[:, k]) for k in (0, 1, 3)]
    assert found.class_ap[[0, 1, 3]] == pytest.approx(expected, rel=1e-12) and np.isnan(found.class_ap[2])
    assert found.map == pytest.approx(np.mean(expected), rel=1e-12)
    assert found.f1 == pytest.approx(100 * f1_score(labels, logits >= 0, average="micro"), rel=1e-12)
    known = [0, 1, 3]
    macro = f1_score(labels[:, known], logits[:, known] >= 0, average="macro")
    assert found.macro_f1 == pytest.approx(100 * macro, rel=1e-12)
    loss = torch.nn.BCELoss()(torch.tensor(logits).sigmoid(), torch.tensor(labels).double())
    assert found.loss == pytest.approx(loss.item(), rel=1e-12) and found.count == 30


@pytest.mark.parametrize(("positive", "scores", "expected"), [
    ([1, 0, 1, 0], [0.5, 0.5, 0.5, 0.5], 0.5),  # equal scores pass a threshold together
    ([0, 1], [np.nan, 0.0], 1.0),  # NaN is the lowest
    ([0, 1], [0.0, np.nan], 0.5),
    ([0, 0], [0.0, 1.0], np.nan),
])  # fmt: skip
def test_average_precision_of_equal_scores_and_of_nan(positive, scores, expected):
    assert average_precision(np.array(positive, bool), np.array(scores)) == pytest.approx(expected, nan_ok=True)


def test_unreadable_images_are_in_no_number(data):
    labels, logits = data
    alone = evaluate_multilabel(Logits(), batches(labels[1:], logits[1:]), precision=FP64)
    marked = labels.copy()
    marked[0] = -1
    found = evaluate_multilabel(Logits(), batches(marked, logits, unreadable=["a.png"]), precision=FP64)
    assert (found.map, found.f1, found.loss, found.count) == (alone.map, alone.f1, alone.loss, 29)
    assert found.unreadable == ["a.png"] and found.indices[0] == 1
    with pytest.raises(UserError, match=r"none of the 1 validation images can be read; check a.png"):
        evaluate_multilabel(Logits(), batches(marked[:1], logits[:1], unreadable=["a.png"]), precision=FP64)
    with pytest.raises(UserError, match="the model has 3 classes, the data has 4"):
        evaluate_multilabel(Logits(), batches(labels, logits[:, :3]), precision=FP64)


def test_the_files_have_every_class_and_every_wrong_label(data, tmp_path):
    labels, logits = data
    found = evaluate_multilabel(Logits(), batches(labels, logits), precision=FP64)
    samples = [(f"{index}.png", 0) for index in range(30)]
    result = write_multilabel_report(found, CLASSES, samples, tmp_path, {"model": "m"})
    assert json.loads((tmp_path / "result.json").read_text()) == result
    assert result["map"] == found.map and result["model"] == "m" and result["images"] == 30
    rows = {row["name"]: row for row in csv.DictReader((tmp_path / "per_class.csv").open())}
    assert rows["none"]["ap"] == "" and rows["none"]["images"] == "0"
    decided = logits[:, 0] >= 0
    hits = (decided & (labels[:, 0] == 1)).sum()
    assert float(rows["cat"]["precision"]) == pytest.approx(100 * hits / decided.sum(), abs=1e-4)
    assert float(rows["cat"]["recall"]) == pytest.approx(100 * hits / labels[:, 0].sum(), abs=1e-4)
    assert float(rows["cat"]["f1"]) == pytest.approx(100 * f1_score(labels[:, 0], decided), abs=1e-4)
    wrong = list(csv.DictReader((tmp_path / "wrong.csv").open()))
    assert len(wrong) == (found.labels != found.predicted).sum()
    confidence = [float(row["confidence"]) for row in wrong]
    assert confidence == sorted(confidence, reverse=True) and confidence[-1] >= 50
    assert all(row["true"] in (f"not {row['predicted']}", row["predicted"].removeprefix("not ")) for row in wrong)
    text = multilabel_text(found, CLASSES)
    assert text.startswith(f"mAP {found.map:.2f} %   F1 {found.f1:.2f} %") and "none" not in text
    assert len(per_class(found, CLASSES)) == 4
