"""Stochastic depth that skips dropped images computes the numbers of DropPath."""

import copy

import pytest
import timm
import torch
from timm.layers import DropPath
from torch import nn

import dat_train.models  # noqa: F401  registers the models
from dat_train.models.blocks import Block, LayerScale
from dat_train.models.kernels import accelerate
from dat_train.models.kernels.cpu.stochastic_depth import residual


class CountingLinear(nn.Module):
    """A linear layer that keeps the number of images of its last input."""

    def __init__(self, dim=3):
        super().__init__()
        self.linear = nn.Linear(dim, dim)
        self.images = None

    def forward(self, x):
        self.images = len(x)
        return self.linear(x)


def step(model, x, autocast=False):
    """Output and all gradients, that of x last, with the random numbers of seed 0."""
    torch.manual_seed(0)
    x = x.detach().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        out = model(x)
    gradients = torch.autograd.grad(out.square().sum(), [*model.parameters(), x])
    return [out, *gradients]


@pytest.mark.parametrize(("name", "rate"), [("dat_nano", 0.3), ("dat_nano", 0.9), ("datpp_tiny", 0.5)])
def test_a_model_trains_with_the_numbers_of_drop_path(name, rate):
    """At 0.9 some branches keep no image; the blocks of DAT++ have local perception units."""
    torch.manual_seed(0)
    small = {"depths": (1, 1, 2, 1), "dims": (8, 16, 24, 32), "num_heads": (1, 2, 3, 4), "groups": (1, 1, 1, 2)}
    model = timm.create_model(name, img_size=64, num_classes=3, drop_path_rate=rate, **small).double().train()
    x = torch.randn(3, 3, 64, 64, dtype=torch.double)
    for got, want in zip(step(accelerate(copy.deepcopy(model), "cpu"), x), step(model, x), strict=True):
        assert (got - want).abs().max() <= 1e-11 * want.abs().max()


class Branch(nn.Module):
    """One residual branch."""

    def __init__(self, rate, skip=True):
        super().__init__()
        self.branch, self.scale, self.drop_path, self.skip = CountingLinear(), LayerScale(3, 0.5), DropPath(rate), skip

    def forward(self, x):
        if self.skip:
            return residual(x, (self.branch, self.scale), self.drop_path)
        return x + self.drop_path(self.scale(self.branch(x)))


def test_the_branch_is_computed_for_the_images_that_are_kept():
    branch, x = Branch(0.5), torch.randn(64, 2, 2, 3)
    out = step(branch, x)[0]
    kept = (out != x).flatten(1).any(1).sum()
    assert 16 < kept == branch.branch.images < 48
    branch.eval()
    step(branch, x)
    assert branch.branch.images == 64


def test_if_no_image_is_kept_every_weight_still_gets_a_gradient():
    """DistributedDataParallel waits for the gradients of all weights."""
    branch, x = Branch(0.999), torch.randn(2, 2, 2, 3)
    out, *weights, d_x = step(branch, x)
    assert torch.equal(out, x) and torch.equal(d_x, 2 * x)
    assert all(not gradient.any() for gradient in weights)


def test_a_block_with_a_hook_inside_computes_the_whole_batch():
    """A hook registered before `accelerate`."""
    block, seen = Block(3, CountingLinear(), nn.Identity(), drop_path=0.5), []
    block.attn.linear.register_forward_hook(lambda _layer, inputs, _out: seen.append(len(inputs[0])))
    accelerate(block, "cpu")(torch.randn(16, 2, 2, 3))
    assert seen == [16]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_under_autocast_formats_are_those_of_the_plain_sum(dtype):
    """The sum of a float32 map and a branch in bfloat16 is float32."""
    skipping, x = Branch(0.5), torch.randn(16, 2, 2, 3).to(dtype)
    plain = copy.deepcopy(skipping)
    plain.skip = False
    for got, want in zip(step(skipping, x, True), step(plain, x, True), strict=True):
        assert got.dtype == want.dtype
        assert (got - want).float().norm() <= 0.01 * want.float().norm()
