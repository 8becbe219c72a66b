"""Every implementation computes what the plain one computes, in value and in every gradient."""

import pytest
import torch
from torch.autograd import gradcheck

import dat_train.errors
from dat_train.models.kernels import parts
from dat_train.models.kernels.choice import using
from dat_train.models.kernels.deformable_attention import deformable_attention
from dat_train.models.kernels.mlp import mlp
from dat_train.models.kernels.sampling import sample_bilinear
from dat_train.models.kernels.window_attention import reorder, window_attention

GEOMETRIES = ("cvpr", "dat++")


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    """Parts of one or two images, or a few rows, of the small tensors here: else there would be one part."""
    monkeypatch.setattr(parts, "PART_BYTES", 2000)


def random(*shape, dtype=torch.double):
    return torch.randn(*shape, dtype=dtype, requires_grad=True)


def attention_inputs(geometry, dtype=torch.double, B=3, H=3, W=4, groups=2, keys=(2, 3), C=8, heads=4):
    """Queries, keys and values, positions (some outside the map) and a table made for a map of another size."""
    torch.manual_seed(0)
    positions = torch.rand(B, groups, *keys, 2, dtype=torch.promote_types(dtype, torch.float32)) * 2.4 - 1.2
    return (
        random(B, H, W, C, dtype=dtype), random(B, keys[0] * keys[1], 2 * C, dtype=dtype),
        positions.requires_grad_(), random(heads, 5, 9, dtype=positions.dtype), geometry,
    )  # fmt: skip


def mlp_inputs(dtype=torch.double):
    torch.manual_seed(0)
    return tuple(random(*shape, dtype=dtype) for shape in ((3, 11, 6), (24, 6), (24,), (5, 24), (5,)))


def window_inputs(windows_differ, dtype=torch.double):
    torch.manual_seed(0)
    bias = random(4, 2, 6, 6, dtype=dtype) if windows_differ else random(2, 6, 6, dtype=dtype)
    return random(3, 4, 6, 24, dtype=dtype), bias, 2


def sampling_inputs(dtype=torch.double):
    torch.manual_seed(0)
    return random(2, 4, 5, 6, dtype=dtype), (torch.rand(2, 3, 2, 2, 2, dtype=dtype) * 2.6 - 1.3).requires_grad_()


CASES = {
    "attention cvpr": (deformable_attention, attention_inputs("cvpr")),
    "attention dat++": (deformable_attention, attention_inputs("dat++")),
    "windows alike": (window_attention, window_inputs(False)),
    "windows masked": (window_attention, window_inputs(True)),
    "mlp": (mlp, mlp_inputs()),
    "sampling": (sample_bilinear, sampling_inputs()),
}


def values_and_gradients(function, inputs, name):
    with using(name):
        out = function(*inputs)
    tensors = [item for item in inputs if isinstance(item, torch.Tensor)]
    torch.manual_seed(1)
    upstream = torch.randn(out.shape, dtype=torch.double).bfloat16().to(out.dtype)
    return [out, *torch.autograd.grad(out, tensors, upstream)]


@pytest.mark.parametrize("case", CASES)
def test_parts_give_the_plain_values_and_gradients(case):
    function, inputs = CASES[case]
    got, want = (values_and_gradients(function, inputs, name) for name in ("parts", "plain"))
    for a, b in zip(got, want, strict=True):
        assert a.dtype == b.dtype and (a - b).abs().max() < 1e-12


@pytest.mark.parametrize("case", CASES)
def test_gradients_by_hand_are_those_of_finite_differences(case):
    function, inputs = CASES[case]
    with using("parts"):
        assert gradcheck(function, inputs, fast_mode=True)


@pytest.mark.parametrize("case", CASES)
def test_without_gradients_the_bits_are_the_same(case):
    function, inputs = CASES[case]
    with_gradients = function(*inputs)
    with torch.no_grad():
        assert torch.equal(function(*inputs), with_gradients)
    frozen = [item.detach() if isinstance(item, torch.Tensor) else item for item in inputs]
    assert torch.equal(function(*frozen), with_gradients)


def test_a_frozen_layer_hands_gradients_through():
    x, *weights = mlp_inputs()
    want = torch.autograd.grad(mlp(x, *weights).sum(), x)[0]
    assert torch.equal(torch.autograd.grad(mlp(x, *(w.detach() for w in weights)).sum(), x)[0], want)


@pytest.mark.parametrize("function,inputs", [
    (deformable_attention, attention_inputs("cvpr", torch.bfloat16, H=7, W=7, keys=(4, 4), C=32)),
    (window_attention, window_inputs(True, torch.bfloat16)),
    (mlp, mlp_inputs(torch.bfloat16)),
])  # fmt: skip
def test_bfloat16_stays_within_its_rounding(function, inputs):
    exact = [i.detach().double().requires_grad_() if isinstance(i, torch.Tensor) else i for i in inputs]
    got, want = values_and_gradients(function, inputs, "parts"), values_and_gradients(function, exact, "plain")
    for a, b in zip(got, want, strict=True):
        assert (a - b).norm() / b.norm() < 0.02


def test_gradients_have_the_same_bits_in_every_run_on_several_threads():
    """Sums over images and windows have an order; nothing is added up by whichever thread comes first."""
    from dat_train.models.window import WindowAttention

    torch.manual_seed(0)
    layer = WindowAttention(96, 24, 7)  # its bias has 57,624 elements, which torch's own gradient adds atomically
    x = torch.randn(8, 14, 14, 96)
    inputs = attention_inputs("cvpr", torch.float32, B=8, H=14, W=14, keys=(7, 7), C=32)
    torch.set_num_threads(2)
    try:
        runs = []
        for _ in range(3):
            windows = torch.autograd.grad(layer(x).square().sum(), list(layer.parameters()))
            runs.append([*windows, *torch.autograd.grad(deformable_attention(*inputs).square().sum(), inputs[:4])])
    finally:
        torch.set_num_threads(1)
    assert all(torch.equal(a, b) for run in runs[1:] for a, b in zip(run, runs[0], strict=True))


def test_reordering_is_undone_by_its_gradient():
    x, order = random(2, 6, 3), torch.randperm(6)
    assert gradcheck(reorder, (x, order, order.argsort()))


def test_an_unknown_implementation_is_named():
    with pytest.raises(dat_train.errors.UserError, match="one of plain, parts"), using("fast"):
        pass


def test_parts_cover_everything_once_and_are_of_equal_length():
    for size, each in ((0, 10), (1, 10**9), (7, 900), (100, 1), (23, 300)):
        slices = parts.parts(size, each)
        assert [i for part in slices for i in range(size)[part]] == list(range(size))
        assert len({part.stop - part.start for part in slices[:-1]}) <= 1
