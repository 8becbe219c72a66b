"""Accuracy and loss equal those of a plain loop, for any batch size and number of processes."""

import math
import pickle

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from training.small_run import in_processes

from dat_train.data.loader import Batch, evaluation_loader
from dat_train.data.storages.sources import open_datasets
from dat_train.errors import UserError
from dat_train.evaluation.classification import evaluate
from dat_train.runtime.precision import resolve_precision

FP32 = resolve_precision("fp32", torch.device("cpu"))
CLASSES = 12


class Table(nn.Module):
    """Model that returns the row of `logits` (N, classes) whose number is the value of an image (1, 1, 1)."""

    def __init__(self, logits):
        super().__init__()
        self.logits = torch.as_tensor(logits)

    def forward(self, images):
        return self.logits[images.flatten().long()]


def batches(labels, size=3, indices=None, unreadable=()):
    """Batches of `size` images; each image holds its row number in a Table."""
    indices = range(len(labels)) if indices is None else indices
    for start in range(0, len(indices), size):
        places = torch.tensor(indices[start : start + size])
        found = torch.tensor([-1 if int(i) in unreadable else labels[i] for i in places])
        paths = [f"{int(i)}.png" for i in places if int(i) in unreadable]
        yield Batch(places.float().view(-1, 1, 1, 1), found, places, paths)


def evaluated(logits, labels, classes=None, **how):
    """The evaluation of given logits."""
    logits = torch.as_tensor(logits, dtype=torch.float32)
    loader = batches(labels, **how)
    return evaluate(Table(logits), loader, num_classes=classes or logits.shape[1], precision=FP32)


def bits(found):
    """All attributes of an evaluation, for exact comparison."""
    return [(name, v.dtype, v.tobytes()) if isinstance(v, np.ndarray) else (name, v) for name, v in vars(found).items()]


@pytest.fixture(scope="module")
def example():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(40, CLASSES, generator=generator)
    return logits, torch.randint(CLASSES, (40,), generator=generator).tolist()


def test_metrics_equal_those_of_a_plain_loop(example):
    logits, labels = example
    hits, near, losses = 0, 0, []
    for row, label in zip(logits.double(), labels, strict=True):
        ranking = sorted(range(CLASSES), key=lambda number: -row[number])
        hits += ranking[0] == label
        near += label in ranking[:5]
        losses.append(float(F.cross_entropy(row[None], torch.tensor([label]))))
    found = evaluated(logits, labels)
    assert (found.top1, found.top5, found.count) == (100 * hits / 40, 100 * near / 40, 40)
    assert 0 < hits < near < 40
    assert found.loss == pytest.approx(sum(losses) / 40, rel=1e-12)
    assert found.predicted.tolist() == logits.argmax(1).tolist() and found.labels.tolist() == labels
    assert found.confidence == pytest.approx(logits.double().softmax(1).amax(1).numpy(), rel=1e-12)


@pytest.mark.parametrize("size", [1, 7, 40])
def test_batches_of_any_size_and_order_give_the_same_bits(example, size):
    logits, labels = example
    order = np.random.default_rng(size).permutation(40).tolist()
    assert bits(evaluated(logits, labels, size=size, indices=order)) == bits(evaluated(logits, labels))


def test_equal_logits_are_ordered_by_class_number():
    found = evaluated(torch.zeros(3, 8), [0, 4, 5])
    assert found.predicted.tolist() == [0, 0, 0]
    assert found.top1 == pytest.approx(100 / 3) and found.top5 == pytest.approx(200 / 3)  # class 5 is the sixth


def test_top5_of_fewer_than_five_classes_is_100_percent(example):
    found = evaluated(example[0][:10, :3], [0, 1, 2] * 3 + [0])
    assert found.top5 == 100 and found.top1 < 100


def test_nan_logits_give_no_prediction_and_a_nan_loss():
    logits = torch.eye(4)
    logits[2, 0] = math.nan
    logits[3] = torch.tensor([0.0, math.inf, 0, 0])
    found = evaluated(logits, [0, 1, 2, 1])
    assert found.predicted.tolist() == [0, 1, -1, 1]
    assert (found.top1, found.top5) == (75, 75)
    assert math.isnan(found.loss) and math.isnan(found.confidence[2])


def test_unreadable_images_are_listed_and_excluded(example):
    logits, labels = example
    found = evaluated(logits, labels, unreadable={3, 17})
    left = [i for i in range(40) if i not in (3, 17)]
    rest = evaluated(logits[left], [labels[i] for i in left])
    assert found.unreadable == ["17.png", "3.png"] and found.indices.tolist() == left
    assert (found.top1, found.top5, found.loss, found.count) == (rest.top1, rest.top5, rest.loss, 38)


def test_a_data_set_without_readable_images_is_refused():
    with pytest.raises(UserError, match=r"none of the 2 validation images can be read; check 0\.png"):
        evaluated(torch.eye(2), [0, 1], unreadable={0, 1})
    with pytest.raises(UserError, match="there is no validation image"):
        evaluated(torch.eye(2), [])


def test_labels_and_logits_that_do_not_match_the_classes_are_refused():
    with pytest.raises(UserError, match="class number 7; the model has classes 0 to 3"):
        evaluated(torch.eye(4), [0, 7])
    with pytest.raises(UserError, match="the model has 4 classes, but 5 are expected"):
        evaluated(torch.eye(4), [0, 1], classes=5)


def test_an_image_that_occurs_twice_is_refused(example):
    with pytest.raises(RuntimeError, match="evaluated twice"):
        evaluated(*example, indices=[0, 1, 1])


class Modes(nn.Module):
    """Fails in training mode; `frozen` is in evaluation mode during training, as in fine-tuning."""

    def __init__(self):
        super().__init__()
        self.frozen, self.head = nn.Dropout().eval(), nn.Dropout()

    def forward(self, images):
        assert not (self.training or self.head.training) and not torch.is_grad_enabled()
        return torch.eye(3)[images.flatten().long()]


def test_training_modes_are_restored_after_an_evaluation_and_after_an_error():
    model = Modes()
    for labels in ([0, 1, 2], [0, 1, 9]):
        try:
            evaluate(model, batches(labels), num_classes=3, precision=FP32)
        except UserError:
            assert labels[-1] == 9
        assert (model.training, model.frozen.training, model.head.training) == (True, False, True)


@pytest.mark.parametrize(
    ("dtype", "inside", "given"),
    [
        ("bf16", torch.bfloat16, torch.float32),  # autocast: weights stay float32
        ("fp32", torch.float32, torch.float32),
        ("fp64", torch.float64, torch.float64),
    ],
)
def test_the_forward_pass_has_the_requested_precision(dtype, inside, given):
    seen = []

    class Linear(nn.Linear):
        def forward(self, images):
            result = super().forward(images.flatten(1))
            seen.append((result.dtype, images.dtype))
            return result

    model = Linear(12, 3).to(given)
    batch = Batch(torch.randn(2, 3, 2, 2), torch.tensor([0, 1]), torch.tensor([0, 1]), [])
    evaluate(model, [batch], num_classes=3, precision=resolve_precision(dtype, torch.device("cpu")))
    assert seen == [(inside, given)]


class Pixels(nn.Module):
    """Seven pixels times seven weights, without a sum whose rounding depends on the other images of a batch."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(0.5, 2, 7))

    def forward(self, images):
        return images.flatten(1)[:, :7] * self.weight


def _share_of(processes, folder, images):
    model = Pixels()
    _, val_set = open_datasets("fake", image_size=8, fake_images=100, fake_classes=7, val_fraction=images / 100)
    val_set.transform = lambda image: torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255
    loader = evaluation_loader(val_set, batch_size=4, rank=processes.rank, world_size=processes.world_size)
    forward = nn.parallel.DistributedDataParallel(model) if processes.world_size > 1 else model
    found = evaluate(forward, loader, num_classes=7, precision=FP32, processes=processes)
    (folder / f"{images}-{processes.world_size}-{processes.rank}").write_bytes(pickle.dumps(bits(found)))


def _shares(processes, folder):
    for images in (23, 2, 1):  # also fewer images than processes
        _share_of(processes, folder, images)


@pytest.mark.long
def test_one_two_and_three_processes_evaluate_each_image_once_with_equal_results(tmp_path):
    for world_size in (1, 2, 3):
        in_processes(world_size, _shares, tmp_path)
    for images in (23, 2, 1):
        results = [pickle.loads(path.read_bytes()) for path in tmp_path.glob(f"{images}-*")]
        assert len(results) == 6 and all(result == results[0] for result in results)
        assert ("count", images) in results[0]
        assert ("indices", np.int64, np.arange(images).tobytes()) in results[0]
