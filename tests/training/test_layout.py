"""The distribution of a batch over processes changes only the order of sums."""

import json

import pytest
import timm
import torch
from training.small_run import ALONE, in_processes, run_small

from dat_train.models.weights.checkpoint import Checkpoint


def one_of(processes, folder, settings):
    build = settings.pop("build", None)  # in each process: tensors that are passed to several share their memory
    run_small(folder, processes=processes, **settings, **({"model": build()} if build else {}))


def run(folder, world_size, **settings):
    """The checkpoint and the metrics after a run on `world_size` processes."""
    settings = {"epochs": 4, "max_steps": 10} | settings
    if world_size == 1:
        one_of(ALONE, folder, settings)
    else:
        in_processes(world_size, one_of, folder, settings)
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return Checkpoint.open(folder / "checkpoints" / "last.pt").content, rows


def furthest(a: dict, b: dict) -> float:
    """Largest difference of all numbers in two states."""
    if isinstance(a, torch.Tensor):
        return (a - b).abs().max().item() if a.numel() else 0.0
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        return max((furthest(a[key], b[key]) for key in a), default=0.0)
    if isinstance(a, list):
        return max((furthest(x, y) for x, y in zip(a, b, strict=True)), default=0.0)
    if isinstance(a, float):
        return abs(a - b)
    assert a == b
    return 0.0


def without_key_bias(model: dict) -> dict:
    """Weights without the part of qkv and kv biases that is added to keys."""
    parts = {"qkv.bias": (3, 1), "kv.bias": (2, 0)}  # of how many, which one
    kept = dict(model)
    for name in model:
        for ending, (count, keys) in parts.items():
            if name.endswith(f".{ending}"):
                chunks = model[name].chunk(count)
                kept[name] = torch.cat([chunk for number, chunk in enumerate(chunks) if number != keys])
    return kept


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return run(tmp_path_factory.mktemp("alone"), 1, dtype="fp64")


@pytest.mark.parametrize("world_size", [2, 4])
def test_several_processes_train_the_same_model_as_one(alone, tmp_path, world_size):
    state, rows = run(tmp_path, world_size, dtype="fp64")
    assert furthest(alone[0], state) < 1e-9
    assert len(rows) == 10 + 4 and furthest(alone[1], rows) < 1e-9


def test_in_single_precision_they_stay_close(tmp_path):
    settings = {"epochs": 20, "max_steps": 20, "eval_every": 20, "decay": 0}
    one, losses = run(tmp_path / "1", 1, **settings)
    for world_size in (2, 4):
        other, same_losses = run(tmp_path / str(world_size), world_size, **settings)
        assert furthest(losses, same_losses) < 1e-5
        # Softmax cancels the bias of keys, so its gradient is rounding alone, which AdamW brings to full length.
        assert furthest(without_key_bias(one["model"]), without_key_bias(other["model"])) < 1e-5


def test_a_run_may_move_between_layouts_in_the_middle_of_epochs(alone, tmp_path):
    for world_size, steps in ((1, 2), (2, 5), (1, 10)):
        state, _ = run(tmp_path, world_size, dtype="fp64", max_steps=steps)
        (tmp_path / "checkpoints" / "best.pt").unlink()  # validations in between may have chosen another one
    assert furthest(alone[0]["model"], state["model"]) < 1e-9
    assert furthest(alone[0]["optimizer"], state["optimizer"]) < 1e-9
    assert furthest(alone[0]["ema"], state["ema"]) < 1e-9


def test_resuming_on_four_processes_is_exact(tmp_path):
    """More than two summands: gradients must be added in the same order before and after."""
    run(tmp_path / "through", 4, max_steps=4, eval_every=9)
    run(tmp_path / "twice", 4, max_steps=2, eval_every=9)
    run(tmp_path / "twice", 4, max_steps=4, eval_every=9)
    through, twice = (
        Checkpoint.open(tmp_path / name / "checkpoints" / "last.pt").content for name in ("through", "twice")
    )
    assert all(furthest(through[part], twice[part]) == 0 for part in ("model", "optimizer", "ema"))


def batch_norm_model():
    """A small ResNet with stochastic depth."""
    torch.manual_seed(0)
    return timm.create_model("test_resnet", num_classes=4, drop_path_rate=0.1)


@pytest.fixture(scope="module")
def resnet_alone(tmp_path_factory):
    return run(tmp_path_factory.mktemp("resnet"), 1, dtype="fp64", build=batch_norm_model)


@pytest.mark.long
@pytest.mark.parametrize("world_size", [2, 4])
def test_batch_normalization_does_not_depend_on_the_number_of_processes(resnet_alone, tmp_path, world_size):
    """Weights, optimizer, running averages and their average, after 10 steps of 4 micro-batches and 4 validations."""
    state, rows = run(tmp_path, world_size, dtype="fp64", build=batch_norm_model)
    assert any(name.endswith("running_var") for name in state["model"])
    assert furthest(resnet_alone[0], state) < 1e-9
    assert furthest(resnet_alone[1], rows) < 1e-9


@pytest.mark.long
def test_batch_normalization_is_resumed_exactly_on_two_processes(tmp_path):
    run(tmp_path / "through", 2, max_steps=4, eval_every=9, build=batch_norm_model)
    for steps in (2, 4):
        run(tmp_path / "twice", 2, max_steps=steps, eval_every=9, build=batch_norm_model)
    through, twice = (
        Checkpoint.open(tmp_path / name / "checkpoints" / "last.pt").content for name in ("through", "twice")
    )
    assert all(furthest(through[part], twice[part]) == 0 for part in ("model", "optimizer", "ema"))
