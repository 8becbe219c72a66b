"""Steps of the training loop, and its reactions to errors."""

import copy
import re
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from training.small_run import CLASSES, small_training, tiny_model
from troubleshooting import entry

from dat_train.data.batch import prepare_images
from dat_train.data.mixing import Mixing
from dat_train.errors import UserError
from dat_train.models.weights.checkpoint import Checkpoint
from dat_train.training.run_folder import read_rows
from dat_train.training.task import Evaluation

PLAIN = {"drop_path_rate": 0.0, "proj_drop_rate": 0.0, "attn_drop_rate": 0.0}


@pytest.fixture
def training(tmp_path):
    """Function that builds a training in a separate folder, which is unlocked afterwards."""
    made = []

    def make(name="run", **settings):
        made.append(small_training(tmp_path / name, **settings))
        return made[-1]

    yield make
    for one in made:
        one.log.folder.unlock()


def rows(training) -> list[dict]:
    return [row for row in read_rows(training.log.folder.metrics) if "loss" in row]


def weights(training) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten().clone() for parameter in training.state.model.parameters()])


class Poisoned(torch.nn.Module):
    """A tiny DAT whose logits of some steps are not finite.

    Args:
        steps: numbers (1-based) of the steps, counted in forward passes in training mode.
        micro_batches: of one step.
        value: factor of the logits in these steps.
    """

    def __init__(self, steps, micro_batches: int = 1, value: float = float("nan")) -> None:
        super().__init__()
        self.model = tiny_model()
        self.steps, self.micro_batches, self.value = steps, micro_batches, value
        self.passes = 0

    def forward(self, images):
        logits = self.model(images)
        if not self.training:
            return logits
        self.passes += 1
        step = (self.passes - 1) // self.micro_batches + 1
        return logits * self.value if step in self.steps else logits


def watch(training, look) -> list:
    """Results of `look(training)` after every step."""
    seen, note = [], training.log.step

    def step(*row):
        note(*row)
        seen.append(look(training))

    training.log.step = step
    return seen


# A step


def batch_gradient(training, step: int) -> dict:
    """The gradient of the mean loss over the whole batch of `step`, at once."""
    model = copy.deepcopy(training.state.model)
    micros = iter(training.make_loader(step))
    batch = [next(micros) for _ in range(training.plan.micro_batches)]
    images, labels = torch.cat(list(map(prepare_images, batch))), torch.cat([micro.labels for micro in batch])
    F.cross_entropy(model(images), labels).backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("micro_batch_size", [2, 8, 16])
def test_accumulated_gradients_are_those_of_the_whole_batch(training, micro_batch_size):
    """fp32: sums in another order differ by a few of 1e-7 of the largest gradient."""
    one = training(
        model=tiny_model(**PLAIN), micro_batch_size=micro_batch_size, mixing=Mixing(CLASSES), clip_grad=0, max_steps=1
    )
    expected = batch_gradient(one, 0)
    one.run()
    for name, parameter in one.state.model.named_parameters():
        assert (parameter.grad - expected[name]).abs().max() < 1e-5, name


@pytest.mark.parametrize("clip_grad", [0.5, 0.0])
def test_gradients_are_clipped_to_the_norm_and_the_log_has_the_one_before(training, clip_grad):
    one = training(clip_grad=clip_grad, max_steps=1)
    one.run()
    norm = torch.cat([parameter.grad.flatten() for parameter in one.state.model.parameters()]).norm().item()
    logged = rows(one)[0]["grad_norm"]
    assert logged > 0.6
    assert norm == pytest.approx(clip_grad or logged, rel=1e-4)


def test_every_update_has_the_rate_of_its_step(training):
    one = training(epochs=2)
    rates = watch(one, lambda training: training.state.optimizer.param_groups[0]["lr"])
    one.run()
    assert rates == [row["lr"] for row in rows(one)] == [one.plan.learning_rate(step) for step in range(6)]


def test_gradient_checkpointing_changes_no_bit(training):
    """Dropout and drop path repeat their draws in the second forward pass."""
    plain, saving = training("plain", max_steps=3), training("saving", max_steps=3, model=tiny_model())
    saving.state.model.set_grad_checkpointing()
    plain.run()
    saving.run()
    assert torch.equal(weights(plain), weights(saving))


class Waits(TorchDispatchMode):
    """Counts operations that make the host wait for the device."""

    NAMES = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero")

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function._schema.name.removeprefix("aten::") in self.NAMES
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
def test_no_step_waits_for_the_device(training, dtype):
    """With the plain model, as on CUDA. Batches are made before, because the data pipeline runs on the host."""
    one = training(epochs=1, images=96, dtype=dtype, clip_grad=1.0, log_every=1000)
    batches = list(one.make_loader(0))
    one.make_loader = lambda first: iter(batches)
    one._validate = lambda: None
    with Waits() as waits:
        counts = watch(one, lambda training: waits.count)
        one.run()
        assert len(counts) == 6
        torch.ones(()).item()
        assert waits.count > counts[-1]  # it does count
    assert counts == [0] * 6


def test_the_numbers_of_many_steps_come_in_one_transfer(training, monkeypatch):
    one = training(epochs=2, images=64, log_every=3)
    flushed, flush = [], one.log.flush
    monkeypatch.setattr(one.log, "flush", lambda counters: flushed.append(len(one.log._waiting)) or flush(counters))
    one.run()
    assert [count for count in flushed if count] == [3, 1, 2, 2]  # steps 3, 4 (an epoch's end), 6 and 8
    assert len(rows(one)) == 8


# Numbers that are not finite


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_step_that_is_not_finite_changes_nothing_and_is_counted(training, value):
    one = training(model=Poisoned({3}, 4, value), epochs=2, decay=0)
    seen = watch(one, weights)
    one.run()
    changed = [not torch.equal(a, b) for a, b in pairwise(seen)]
    assert changed == [True, False, True, True, True]
    assert [row["skipped"] for row in rows(one)] == [0, 0, 1, 1, 1, 1]
    assert [row["loss"] is None for row in rows(one)] == [False, False, True, False, False, False]
    assert one.state.counters["skipped"] == 1 and one.state.counters["consecutive_failures"] == 0
    assert "1 skipped" in one.log.folder.log.read_text()
    steps = {int(values["step"]) for values in one.state.optimizer.state.values()}
    assert steps == {5}  # the optimizer's bias correction knows of five updates


@pytest.mark.long
@pytest.mark.parametrize("optimizer", ["sgd", "lamb", "lion", "muon"])
def test_other_optimizers_skip_such_a_step_too_and_resume_around_it(training, optimizer):
    settings = {"epochs": 2, "optimizer": optimizer}
    through = training("through", model=Poisoned({3}, 4), **settings)
    seen = watch(through, weights)
    through.run()
    assert [not torch.equal(a, b) for a, b in pairwise(seen)] == [True, False, True, True, True]
    training("twice", model=Poisoned({3}, 4), max_steps=2, **settings).run()
    twice = training("twice", model=Poisoned({1}, 4), **settings)  # counts the steps of its own process
    twice.run()
    assert twice.state.counters["skipped"] == 1
    assert torch.equal(weights(through), weights(twice))


def test_too_many_consecutive_failures_go_back_once_and_then_name_the_checkpoint(training):
    one = training(model=Poisoned(range(6, 99), 4), epochs=6, log_every=3, nonfinite_limit=6, keep=9)
    with pytest.raises(UserError) as end:
        one.run()
    log = one.log.folder.log.read_text()
    # steps 6 to 12 were skipped; the checkpoint of step 3 is the last from before
    good = one.log.folder.checkpoints / "last-000000003.pt"
    assert f"going back to {good}, step 3, once" in log
    assert re.search(r"the last 7 steps up to step 12 had a loss or gradient that is not finite; going back", log)
    assert f"again; the last good checkpoint is {good}; lower optim.lr or use dtype=fp32" in str(end.value)
    assert len(re.findall("going back to", log)) == 1
    assert Checkpoint.open(good).content["counters"]["consecutive_failures"] == 0


def test_a_run_that_recovers_after_going_back_ends_with_the_same_bytes(training):
    """A machine with wrong results for some steps."""
    settings = {"epochs": 4, "log_every": 3, "nonfinite_limit": 5, "keep": 9}
    well = training("well", model=Poisoned((), 4), **settings)
    ill = training("ill", model=Poisoned(range(4, 10), 4), **settings)
    assert well.run() and ill.run()
    assert torch.equal(weights(well), weights(ill))
    assert well.log.folder.metrics.read_bytes() == ill.log.folder.metrics.read_bytes()
    assert well.log.folder.last.read_bytes() == ill.log.folder.last.read_bytes()


def test_without_a_checkpoint_there_is_no_way_back(training):
    one = training(model=Poisoned(range(99), 4), images=400, epochs=1, log_every=3, nonfinite_limit=3)
    with pytest.raises(UserError, match=r"the last 3 steps up to step 3 .* there is no checkpoint from before; lower"):
        one.run()


class Steep(torch.nn.Module):
    """A tiny DAT with finite losses whose scaled gradients overflow fp16 at a scale above `limit`."""

    def __init__(self, limit: float) -> None:
        super().__init__()
        self.model = tiny_model(**PLAIN)
        self.limit = limit

    def forward(self, images):
        logits = self.model(images)
        if logits.requires_grad:
            # half precision's largest number is 65504; a gradient of 0.25/B is about that of a logit
            logits.register_hook(lambda gradient: (gradient * (65504 / self.limit)).half().to(gradient.dtype))
            logits.register_hook(lambda gradient: gradient * (self.limit / 65504))
        return logits


def test_a_loss_scale_that_is_too_large_is_halved_without_a_failure(training):
    """torch.amp's contract: a step whose gradient overflows is skipped and lowers the scale, until none does."""
    one = training(model=Steep(2.0), dtype="fp16", images=200, epochs=2, nonfinite_limit=3, log_every=1)
    scales = watch(one, lambda training: training.state.scaler.get_scale())
    assert one.run()
    skipped = one.state.counters["skipped"]
    assert skipped > 3  # more in a row than failures would be allowed
    assert scales[:skipped] == [2.0 ** (15 - number) for number in range(skipped)]
    assert len(set(scales[skipped:])) == 1 and scales[-1] >= 1
    assert one.state.counters["consecutive_failures"] == 0
    assert [row["loss"] is None for row in rows(one)] == [False] * 24  # the loss was finite all the time


def test_with_loss_scaling_a_loss_that_is_not_finite_is_a_failure_at_any_scale(training):
    one = training(model=Poisoned(range(99), 4), dtype="fp16", images=400, epochs=1, log_every=3, nonfinite_limit=3)
    with pytest.raises(UserError, match="the last 3 steps up to step 3"):
        one.run()


def test_a_gradient_that_overflows_at_any_scale_is_a_failure_in_the_end(training):
    one = training(model=Steep(1e-30), dtype="fp16", images=900, epochs=1, log_every=1, nonfinite_limit=2)
    with pytest.raises(UserError, match="the last 2 steps up to step 18"):  # 16 halvings from 65536 to 1, then two
        one.run()


# Between steps


def test_validation_restores_the_training_mode(training):
    one = training(epochs=2)
    modes = watch(one, lambda training: {module.training for module in training.state.model.modules()})
    inside, evaluate = [], one._evaluate
    one._evaluate = lambda model: inside.append(model.training) or evaluate(model)
    one.run()
    assert modes == [{True}] * 6 and len(inside) == 4


def test_the_best_checkpoint_is_of_the_first_highest_score(training):
    one, tops = training(epochs=4, decay=0), [10.0, 50.0, 50.0, 20.0]
    one._evaluate = lambda model: Evaluation({"loss": 1.0, "top1": tops[one.state.step // 3 - 1], "top5": 100.0}, "")
    one.run()
    assert one.state.best == {"top1": 50.0, "epoch": 2, "step": 6}
    best, last = Checkpoint.open(one.log.folder.best).content, Checkpoint.open(one.log.folder.last).content
    assert (best["step"], best["epoch"], best["best"]) == (6, 2, one.state.best)
    assert (last["step"], last["epoch"], last["best"]) == (12, 4, one.state.best)


def test_a_run_shorter_than_its_validations_validates_at_its_end(training):
    one = training(epochs=2, max_steps=5, eval_every=7)
    assert one.run()
    steps = [row["step"] for row in read_rows(one.log.folder.metrics) if "val_loss" in row]
    assert steps == [5] and Checkpoint.open(one.log.folder.best).content["step"] == 5


class Unreadable(torch.utils.data.Dataset):
    """A data set with unreadable files that are replaced by others."""

    def __init__(self, dataset, indices) -> None:
        self.dataset, self.indices = dataset, indices

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key):
        sample = self.dataset[key]
        return sample._replace(unreadable=(f"photo-{key.index}.jpg",) if key.index in self.indices else ())


def with_unreadable(one, indices):
    make_loader = one.make_loader

    def make(first):
        loader = make_loader(first)
        object.__setattr__(loader, "dataset", Unreadable(loader.dataset, indices))
        return loader

    one.make_loader = make


def test_unreadable_images_are_named_once_and_counted(training):
    one = training(epochs=3, images=48, max_unreadable=0.1)
    with_unreadable(one, {3, 5, 40})  # 3 of 48 are 6 %
    assert one.run()
    log = one.log.folder.log.read_text()
    for index in (3, 5, 40):
        assert log.count(f"photo-{index}.jpg cannot be read; it is replaced by another image") == 1
    assert [row["unreadable"] for row in rows(one)][2::3] == [3, 6, 9]
    assert one.state.counters["unreadable"] == 9 and one.state.counters["unreadable_in_epoch"] == 3


def test_unreadable_validation_images_are_named_once(training, monkeypatch):
    monkeypatch.setattr("dat_train.training.loop.MAX_REPORTED", 1)
    one = training(epochs=3, images=48)
    one.val_loader = [batch._replace(unreadable=["b.jpg", "a.jpg", "c.jpg"]) for batch in one.val_loader]
    assert one.run()
    log = one.log.folder.log.read_text()
    assert log.count("a.jpg cannot be read; it is left out of the validation") == 1
    assert log.count("2 more images cannot be read; they are left out of the validation; dat-check names all") == 1


def test_too_many_unreadable_images_end_the_run(training):
    one = training(epochs=3, images=48, max_unreadable=0.05)
    with_unreadable(one, {3, 5, 40})
    with pytest.raises(UserError, match=r"6.2% of this epoch's images cannot be read \(3 so far\), more") as caught:
        one.run()
    assert entry("max-unreadable").fullmatch(f"error: {caught.value}")
    assert one.state.step <= 3 and entry("unreadable-image").search(one.log.folder.log.read_text())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 0}, r"the checkpoint has format 0, this version reads 1; start a new run"),
        ({"ema": None}, r"contains no ema state, which this configuration needs; start a new run"),
        ({"model": {}}, r"the checkpoint is of another model \(.*\); choose another name="),
    ],
)
def test_a_state_that_does_not_fit_is_refused(training, change, message):
    one = training()
    saved = one.state.state_dict(0)
    with pytest.raises(UserError, match=message):
        one.state.load_state_dict(saved | change)
