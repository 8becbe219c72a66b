"""Stochastic depth without the images it drops: the numbers of DropPath, for less work."""

import pytest
import timm
import torch
from timm.layers import DropPath
from torch import nn

import dat_train.models  # noqa: F401  registers the models
from dat_train.models.blocks import LayerScale
from dat_train.models.kernels.choice import using
from dat_train.models.kernels.residual import residual


class Seen(nn.Module):
    """A branch that remembers how many images it was given."""

    def __init__(self, dim=3):
        super().__init__()
        self.linear = nn.Linear(dim, dim)
        self.images = None

    def forward(self, x):
        self.images = len(x)
        return self.linear(x)


def step(model, x, name, autocast=False):
    """Output and all gradients, that of x last, with the random numbers of seed 0."""
    torch.manual_seed(0)
    x = x.detach().requires_grad_()
    with using(name), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        out = model(x)
    gradients = torch.autograd.grad(out.square().sum(), [*model.parameters(), x])
    return [out, *gradients]


@pytest.mark.parametrize(("name", "rate"), [("dat_nano", 0.3), ("dat_nano", 0.9), ("datpp_tiny", 0.5)])
def test_a_model_trains_with_the_numbers_of_drop_path(name, rate):
    """At 0.9 some branches keep no image at all; the blocks of DAT++ have local perception, LayerScale and others."""
    torch.manual_seed(0)
    small = {"depths": (1, 1, 2, 1), "dims": (8, 16, 24, 32), "heads": (1, 2, 3, 4), "groups": (1, 1, 1, 2)}
    model = timm.create_model(name, img_size=64, num_classes=3, drop_path_rate=rate, **small).double().train()
    x = torch.randn(3, 3, 64, 64, dtype=torch.double)
    for got, want in zip(step(model, x, "parts"), step(model, x, "plain"), strict=True):
        assert (got - want).abs().max() <= 1e-11 * want.abs().max()


class Half(nn.Module):
    """One residual branch."""

    def __init__(self, rate):
        super().__init__()
        self.branch, self.scale, self.drop_path = Seen(), LayerScale(3, 0.5), DropPath(rate)

    def forward(self, x):
        return residual(x, self.branch, self.scale, drop_path=self.drop_path)


def test_the_branch_is_computed_for_the_images_that_are_kept():
    half, x = Half(0.5), torch.randn(64, 2, 2, 3)
    out = step(half, x, "parts")[0]
    kept = (out != x).flatten(1).any(1).sum()
    assert 16 < kept == half.branch.images < 48
    step(half, x, "plain")
    assert half.branch.images == 64
    half.eval()
    step(half, x, "parts")
    assert half.branch.images == 64


def test_where_no_image_is_kept_every_weight_still_gets_a_gradient():
    """DistributedDataParallel waits for the gradients of all weights."""
    half, x = Half(0.999), torch.randn(2, 2, 2, 3)
    out, *weights, d_x = step(half, x, "parts")
    assert torch.equal(out, x) and torch.equal(d_x, 2 * x)
    assert all(not gradient.any() for gradient in weights)


def test_a_hook_sees_the_whole_batch():
    half, x = Half(0.5), torch.randn(16, 2, 2, 3)
    without = step(half, x, "parts")
    seen = []
    handle = half.branch.linear.register_forward_hook(lambda _layer, inputs, _out: seen.append(len(inputs[0])))
    for got, want in zip(step(half, x, "parts"), without, strict=True):
        torch.testing.assert_close(got, want)
    handle.remove()
    assert seen == [16]
    with torch.nn.modules.module.register_module_forward_hook(
        lambda _module, inputs, _out: seen.append(len(inputs[0]))
    ):
        step(half, x, "parts")
    assert set(seen) == {16}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_under_autocast_formats_are_those_of_the_plain_sum(dtype):
    """A float32 map and a branch in bfloat16 add up to float32."""
    half, x = Half(0.5), torch.randn(16, 2, 2, 3).to(dtype)
    for got, want in zip(step(half, x, "parts", True), step(half, x, "plain", True), strict=True):
        assert got.dtype == want.dtype
        assert (got - want).float().norm() <= 0.01 * want.float().norm()
