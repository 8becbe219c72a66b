"""Number formats by name."""

import pytest
import torch
from training.small_run import run_small, small_training

from dat_train.errors import UserError
from dat_train.models.weights.checkpoint import Checkpoint
from dat_train.runtime.precision import resolve_precision
from dat_train.training.run_folder import read_rows

CPU, CUDA, MPS = (torch.device(name) for name in ("cpu", "cuda", "mps"))


@pytest.mark.parametrize(
    ("name", "weights", "inside"),
    [
        ("bf16", torch.float32, torch.bfloat16),
        ("fp16", torch.float32, torch.float16),
        ("fp32", torch.float32, torch.float32),
        ("fp64", torch.float64, torch.float64),
        ("auto", torch.float32, torch.float32),
    ],
)
def test_weights_and_products_have_the_named_format(name, weights, inside):
    precision = resolve_precision(name, CPU)
    layer = torch.nn.Linear(2, 2).to(precision.weights_dtype)
    with precision.context():
        assert layer(torch.zeros(1, 2, dtype=precision.weights_dtype)).dtype == inside
    assert layer.weight.dtype == weights
    assert precision.scaler().is_enabled() == (name == "fp16")


@pytest.mark.parametrize(("has_bf16", "name"), [(True, "bf16"), (False, "fp16")])
def test_auto_is_bf16_on_a_gpu_that_supports_it(monkeypatch, has_bf16, name):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has_bf16)
    assert resolve_precision("auto", CUDA).name == name
    assert resolve_precision("auto", MPS).name == "fp32"


def test_unknown_and_missing_formats_are_refused():
    with pytest.raises(UserError, match="dtype=half must be one of auto, bf16, fp16, fp32, fp64"):
        resolve_precision("half", CPU)
    with pytest.raises(UserError, match="dtype=fp64 does not exist on mps; use dtype=fp32 or device=cpu"):
        resolve_precision("fp64", MPS)


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_half_precision_trains_like_single_and_resumes_exactly(tmp_path, dtype):
    """Rounding to 8 (bf16) or 11 bits moves a loss of 1.5 by less than 0.05; without a scaler fp16 would not learn."""
    settings = {"epochs": 1, "images": 64}
    run_small(tmp_path / "single", **settings)
    run_small(tmp_path / "half", dtype=dtype, **settings)
    losses = [
        [row["loss"] for row in read_rows(tmp_path / name / "metrics.jsonl") if "loss" in row]
        for name in ("single", "half")
    ]
    assert len(losses[0]) == 4 and losses[0] != losses[1]
    assert max(abs(a - b) for a, b in zip(*losses, strict=True)) < 0.05

    run_small(tmp_path / "twice", dtype=dtype, max_steps=2, eval_every=9, **settings)
    training = small_training(tmp_path / "twice", dtype=dtype, **settings)
    training.run()
    training.log.folder.unlock()
    half, twice = (Checkpoint.open(tmp_path / name / "checkpoints" / "last.pt").content for name in ("half", "twice"))
    assert all(torch.equal(half["model"][name], twice["model"][name]) for name in half["model"])
    assert half["scaler"] == twice["scaler"] and (half["scaler"] is not None) == (dtype == "fp16")


def test_a_run_with_loss_scaling_is_not_resumed_from_one_without(tmp_path):
    run_small(tmp_path, max_steps=1)
    with pytest.raises(UserError, match="no scaler state, which this configuration needs"):
        small_training(tmp_path, dtype="fp16")
