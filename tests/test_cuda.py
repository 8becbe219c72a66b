"""Tests that need a CUDA device: kernels compiled by Triton and torch, and real commands there. `make test-gpu`."""

import subprocess
import sys

import pytest
import timm
import torch

import dat_train.models  # noqa: F401  registers the models
from dat_train.models import DeformableAttention
from dat_train.models.kernels import accelerate, restore

pytestmark = pytest.mark.gpu

DEVICE = torch.device("cuda")


def gradients(module, x, name, upstream):
    module.zero_grad()
    x = x.detach().requires_grad_()
    out = accelerate(restore(module), DEVICE, name)(x)
    out.backward(upstream.to(out.dtype))
    return [out.detach(), x.grad, *(p.grad for p in module.parameters())]


@pytest.mark.parametrize("name", ["triton", "flex"])
@pytest.mark.parametrize("geometry", ["cvpr", "dat++"])
def test_kernels_give_the_plain_values_and_gradients(name, geometry):
    """In bfloat16, compared with the plain form in float64."""
    torch.manual_seed(0)
    layer = DeformableAttention(64, 2, 1, (14, 14), geometry=geometry).to(DEVICE, torch.bfloat16)
    exact = DeformableAttention(64, 2, 1, (14, 14), geometry=geometry).to(DEVICE, torch.double)
    exact.load_state_dict(layer.state_dict())
    x = torch.randn(3, 14, 14, 64, device=DEVICE, dtype=torch.bfloat16)
    upstream = torch.randn_like(x)
    got, want = gradients(layer, x, name, upstream), gradients(exact, x.double(), "plain", upstream)
    plain = gradients(layer, x, "plain", upstream)
    for a, b, c in zip(got, plain, want, strict=True):
        assert (a - c).norm() <= max(2 * (b - c).norm(), 0.02 * c.norm())


@pytest.mark.parametrize("model", ["dat_nano", "datpp_tiny"])
def test_evaluating_first_and_training_after(model):
    model = timm.create_model(model, num_classes=3, img_size=96).to(DEVICE)
    x = torch.randn(2, 3, 96, 96, device=DEVICE)
    with torch.inference_mode():
        model.eval()(x)
    model.train()(x).square().sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_compiled_with_dynamic_batch_sizes_it_is_one_graph():
    model = timm.create_model("dat_nano", num_classes=3).to(DEVICE).eval()
    compiled = torch.compile(model, fullgraph=True)
    with torch.no_grad():
        for batch in (4, 3, 7):
            x = torch.randn(batch, 3, 32, 32, device=DEVICE)
            torch.testing.assert_close(compiled(x), model(x), rtol=1e-3, atol=1e-3)


def command(module, *arguments, folder):
    code = f"from dat_train.cli.main import {module}; {module}()"
    run = [sys.executable, "-c", code, f"device={DEVICE.type}", *arguments]
    return subprocess.run(run, cwd=folder, capture_output=True, text=True)


@pytest.mark.parametrize("setting", ["compile=true", "deterministic=true"])
def test_training(setting, tmp_path):
    small = (
        "model=dat_nano",
        "data=fake",
        "data.fake_images=64",
        "batch_size=16",
        "micro_batch_size=8",
        "epochs=2",
        "schedule.warmup_epochs=0",
        "data.workers=2",
    )
    done = command("train", *small, setting, "name=one", folder=tmp_path)
    assert done.returncode == 0, done.stderr + done.stdout
    if setting == "deterministic=true":
        assert command("train", *small, setting, "name=two", folder=tmp_path).returncode == 0
        one, two = (
            torch.load(tmp_path / "runs" / name / "checkpoints/last.pt", weights_only=True) for name in ("one", "two")
        )
        assert all(torch.equal(one["model"][key], two["model"][key]) for key in one["model"])


def test_measuring_attention(tmp_path):
    done = command("bench", "attention", "sizes=[7,14]", "dtype=bf16", "batch_size=4", folder=tmp_path)
    assert done.returncode == 0 and "left out" not in done.stderr, done.stderr
    if DEVICE.type == "cuda":
        assert "triton 14x14" in done.stdout and "flex 14x14" in done.stdout
