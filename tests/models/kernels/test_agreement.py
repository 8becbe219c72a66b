"""Every implementation computes what the plain one computes, in value and in every gradient."""

import pytest
import timm
import torch
import torch.nn.attention.flex_attention
from torch import nn
from torch.autograd import gradcheck
from torch.func import functional_call

import dat_train.errors
import dat_train.models.kernels.deformable_attention
import dat_train.models.kernels.sampling
from dat_train.models.blocks import Mlp
from dat_train.models.geometry import reference_points
from dat_train.models.kernels import parts
from dat_train.models.kernels.choice import using
from dat_train.models.kernels.deformable_attention import (
    deformable_attention,
    table_bias,
    table_bias_by_products,
)
from dat_train.models.kernels.depthwise import depthwise_conv2d
from dat_train.models.kernels.linear import SMALL, linear
from dat_train.models.kernels.sampling import sample_bilinear
from dat_train.models.window import WindowAttention

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


class Layer:
    """A module as a function of its input and its parameters."""

    def __init__(self, module):
        self.module = module
        self.names = [name for name, _ in module.named_parameters()]

    def __call__(self, x, *parameters):
        return functional_call(self.module, dict(zip(self.names, parameters, strict=True)), x)

    def inputs(self, *shape, dtype=torch.double):
        """Of a size that keeps activations near 1, as in a model."""
        torch.manual_seed(0)
        parameters = [torch.randn(p.shape) * p.shape[-1] ** -0.5 for p in self.module.parameters()]
        return random(*shape, dtype=dtype), *(p.to(dtype).requires_grad_() for p in parameters)


MLP = Layer(Mlp(6, 4))
WINDOWS = Layer(WindowAttention(24, 2, 3))
SHIFTED = Layer(WindowAttention(24, 2, 3, shifted=True))


def linear_inputs(dtype=torch.double):
    torch.manual_seed(0)
    return tuple(random(*shape, dtype=dtype) for shape in ((3, 11, 6), (5, 6), (5,)))


def depthwise_inputs(stride, kernel, dtype=torch.double, side=9):
    torch.manual_seed(0)
    x, weight, bias = (random(*shape, dtype=dtype) for shape in ((2, side, side + 1, 8), (8, 1, kernel, kernel), (8,)))
    return x, weight, bias, stride, kernel // 2


def sampling_inputs(dtype=torch.double):
    torch.manual_seed(0)
    return random(2, 4, 5, 6, dtype=dtype), (torch.rand(2, 3, 2, 2, 2, dtype=dtype) * 2.6 - 1.3).requires_grad_()


CASES = {
    "attention cvpr": (deformable_attention, attention_inputs("cvpr")),
    "attention dat++": (deformable_attention, attention_inputs("dat++")),
    "windows": (WINDOWS, WINDOWS.inputs(3, 6, 9, 24)),
    "windows shifted": (SHIFTED, SHIFTED.inputs(3, 6, 9, 24)),
    "windows padded": (SHIFTED, SHIFTED.inputs(3, 5, 7, 24)),
    "mlp": (MLP, MLP.inputs(3, 11, 6)),
    "linear": (linear, linear_inputs()),
    "depthwise": (depthwise_conv2d, depthwise_inputs(1, 5)),
    "depthwise strided": (depthwise_conv2d, depthwise_inputs(4, 7)),
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


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_flex_attention_gives_the_plain_values_and_gradients(geometry, monkeypatch):
    """Its bias, computed by torch's dense reference; the kernel itself needs a GPU."""
    # torch refuses gradients on the CPU, though its reference has them
    monkeypatch.setattr(torch.nn.attention.flex_attention, "_validate_device", lambda *tensors: None)
    inputs = attention_inputs(geometry, C=64)
    got, want = (values_and_gradients(deformable_attention, inputs, name) for name in ("flex", "plain"))
    for a, b in zip(got, want, strict=True):
        assert a.dtype == b.dtype and (a - b).abs().max() < 1e-12


@pytest.mark.parametrize("offsets", [0, 1])
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_a_bias_by_products_gives_the_sampled_values_and_gradients(geometry, offsets):
    """Without offsets positions lie on the table's cells, where the slope is that of the cell behind."""
    H = W = 4
    axis = reference_points(2, geometry, torch.zeros((), dtype=torch.double))
    reference = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1)
    torch.manual_seed(0)
    positions = (reference + offsets * torch.rand(3, 2, 2, 2, 2, dtype=torch.double)).requires_grad_()
    table = random(4, 2 * H - 1, 2 * W - 1)
    got, want = (
        values_and_gradients(lambda p, t: bias(p, t, H, W, geometry), (positions, table), "plain")  # noqa: B023
        for bias in (table_bias_by_products, table_bias)
    )
    for a, b in zip(got, want, strict=True):
        assert (a - b).abs().max() < 1e-12


def test_a_bias_by_products_is_not_rounded_under_autocast():
    """A position's gradient is the difference of neighbouring cells: far from zero, rounding would leave none of it."""
    torch.manual_seed(0)
    positions = (torch.rand(2, 2, 3, 3, 2) * 2 - 1).requires_grad_()
    table = (3 + 0.01 * torch.randn(4, 13, 13)).requires_grad_()
    results = []
    for bias in (table_bias_by_products, table_bias):
        with torch.autocast("cpu", torch.bfloat16):
            out = bias(positions, table, 7, 7, "cvpr")
        upstream = torch.randn(out.shape, generator=torch.Generator().manual_seed(0))
        results.append([out, *torch.autograd.grad(out, (positions, table), upstream)])
    for got, want in zip(*results, strict=True):
        assert got.dtype == want.dtype and (got - want).norm() < 1e-4 * want.norm()


def test_deterministic_algorithms_sample_nothing_that_torch_refuses(monkeypatch):
    """What CUDA gets with deterministic=true: no grid_sample, whose gradient is added up in no order there."""
    model = timm.create_model("dat_nano", num_classes=3).double().train()
    x = torch.randn(2, 3, 32, 32, dtype=torch.double)
    with using("plain"):
        want = torch.autograd.grad(model(x).square().sum(), list(model.parameters()))
        for module in (dat_train.models.kernels.sampling, dat_train.models.kernels.deformable_attention):
            monkeypatch.setattr(module, "must_be_deterministic", lambda _: True)
            monkeypatch.setattr(module, "grid_sample", None)
        got = torch.autograd.grad(model(x).square().sum(), list(model.parameters()))
    for a, b in zip(got, want, strict=True):
        assert (a - b).norm() <= 1e-11 * b.norm()


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


@pytest.mark.parametrize("case", ["mlp", "windows shifted", "linear", "depthwise"])
def test_a_frozen_layer_hands_gradients_through(case):
    function, (x, *weights) = CASES[case]
    want = torch.autograd.grad(function(x, *weights).sum(), x)[0]
    frozen = [w.detach() if isinstance(w, torch.Tensor) else w for w in weights]
    assert torch.equal(torch.autograd.grad(function(x, *frozen).sum(), x)[0], want)


@pytest.mark.parametrize("function,inputs", [
    (deformable_attention, attention_inputs("cvpr", torch.bfloat16, H=7, W=7, keys=(4, 4), C=32)),
    (deformable_attention, attention_inputs("dat++", torch.bfloat16, H=7, W=7, keys=(4, 4), C=32)),
    (SHIFTED, SHIFTED.inputs(3, 6, 9, 24, dtype=torch.bfloat16)),
    (MLP, MLP.inputs(3, 11, 6, dtype=torch.bfloat16)),
    (linear, linear_inputs(torch.bfloat16)),
    *(
        (depthwise_conv2d, depthwise_inputs(stride, kernel, torch.bfloat16, 14))
        for stride, kernel in ((1, 3), (1, 5), (1, 7), (1, 9), (2, 5))
    ),
])  # fmt: skip
def test_bfloat16_stays_within_its_rounding(function, inputs):
    exact = [i.detach().double().requires_grad_() if isinstance(i, torch.Tensor) else i for i in inputs]
    got, want = values_and_gradients(function, inputs, "parts"), values_and_gradients(function, exact, "plain")
    for a, b in zip(got, want, strict=True):
        assert (a - b).norm() / b.norm() < 0.02


def test_gradients_have_the_same_bits_in_every_run_on_several_threads():
    """Sums over images and windows have an order; nothing is added up by whichever thread comes first."""
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


def test_linear_layers_of_a_models_size_go_through_the_same_checks():
    """float32, where oneDNN multiplies: what is too small for it, above, is handed to torch."""
    torch.manual_seed(0)
    x, w, b = (
        random(4, 900, 64, dtype=torch.float32),
        random(96, 64, dtype=torch.float32),
        random(96, dtype=torch.float32),
    )
    assert x.numel() * len(w) >= SMALL
    got, want = (values_and_gradients(linear, (x, w, b), name) for name in ("parts", "plain"))
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-4)


def test_what_stands_in_for_a_linear_layer_is_called():
    """Hooks and adapters (LoRA, for one) of projections and MLPs: their layers are called, not their weights used."""

    class Doubled(nn.Module):
        def __init__(self, base):
            super().__init__()
            self.base, self.weight, self.bias = base, base.weight, base.bias

        def forward(self, x):
            return 2 * self.base(x)

    for module, name, x in (
        (Mlp(6, 4), "fc2", torch.randn(2, 5, 6)),
        (WindowAttention(24, 2, 3), "proj", torch.randn(2, 6, 6, 24)),
    ):
        with using("parts"), torch.no_grad():
            before = module(x)
            called = []
            handle = getattr(module, name).register_forward_hook(lambda *_, called=called: called.append(1))
            torch.testing.assert_close(module(x), before)
            assert called
            handle.remove()
        called.clear()
        handle = getattr(module, name).register_full_backward_hook(lambda *_, called=called: called.append(1))
        with using("parts"):
            module(x).sum().backward()
        assert called
        handle.remove()
        with using("parts"), torch.no_grad():
            setattr(module, name, Doubled(getattr(module, name)))
            torch.testing.assert_close(module(x), 2 * before)


def test_an_unknown_implementation_is_named():
    with pytest.raises(dat_train.errors.UserError, match="one of plain, parts"), using("fast"):
        pass


def test_parts_cover_everything_once_and_are_of_equal_length():
    for size, each in ((0, 10), (1, 10**9), (7, 900), (100, 1), (23, 300)):
        slices = parts.parts(size, each)
        assert [i for part in slices for i in range(size)[part]] == list(range(size))
        assert len({part.stop - part.start for part in slices[:-1]}) <= 1
