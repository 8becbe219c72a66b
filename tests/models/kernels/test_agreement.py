"""Accelerated modules compute the values and gradients of the plain ones."""

import copy

import pytest
import timm
import torch
import torch.nn.attention.flex_attention
from golden import CVPR, DATPP, load_golden
from models.test_neighborhood_attention import gathered_attention
from torch import nn
from torch.autograd import gradcheck
from torch.func import functional_call

import dat_train.models  # noqa: F401  registers the models
from dat_train.errors import UserError
from dat_train.models.blocks import Mlp
from dat_train.models.deformable import DeformableAttention, SamplingPositions, TableBias, reference_grid
from dat_train.models.kernels import accelerate, is_accelerated, prefers_eager, restore
from dat_train.models.kernels.accelerate import DETERMINISTIC, FLEX
from dat_train.models.kernels.cpu import chunks
from dat_train.models.kernels.flex import flex_neighborhood_attention, neighborhood_mask
from dat_train.models.window import WindowAttention

GEOMETRIES = ("cvpr", "dat++")


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    """Chunks of one or two images, or a few rows: the tensors here would fit into a single chunk."""
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 2000)


class Function:
    """A module as a function of its input and its parameters.

    Args:
        module: the module.
        shape: of its input.
        dtype: of all tensors, but the bias table and positions of half precision, which are float32.
    """

    def __init__(self, module, shape, dtype=torch.double):
        self.module = module
        self.names = [name for name, _ in module.named_parameters()]
        torch.manual_seed(0)
        parameters = [torch.randn(p.shape) * p.shape[-1] ** -0.5 for p in module.parameters()]  # activations near 1
        tensors = [torch.randn(shape), *parameters]
        self.inputs = [tensor.to(dtype).requires_grad_() for tensor in tensors]

    def __call__(self, *inputs):
        x, *parameters = inputs
        out = functional_call(self.module, dict(zip(self.names, parameters, strict=True)), x)
        return out[0] if isinstance(out, tuple) else out


class Attend(nn.Module):
    """Steps 6 and 8 of deformable attention as a function of a map and positions, some outside the map."""

    def __init__(self, geometry="cvpr", dim=8, num_heads=4, groups=2, keys=(2, 3)):
        super().__init__()
        self.layer = DeformableAttention(dim, num_heads, groups, (3, 5), geometry=geometry)
        self.positions = nn.Parameter(torch.zeros(3, groups, *keys, 2))

    def forward(self, x):
        positions = 1.2 * torch.tanh(3 * self.positions)
        features = self.layer.features(x, positions)
        return self.layer.attend(self.layer.q(x), self.layer.kv(features), positions)


CASES = {
    "attend cvpr": (lambda: Attend("cvpr"), (3, 3, 4, 8)),
    "attend dat++": (lambda: Attend("dat++"), (3, 3, 4, 8)),
    "deformable cvpr": (lambda: DeformableAttention(8, 4, 2, (3, 5), 3), (3, 3, 4, 8)),
    "deformable dat++": (lambda: DeformableAttention(8, 4, 2, (3, 5), 3, stride=2, geometry="dat++"), (3, 5, 6, 8)),
    "windows": (lambda: WindowAttention(24, 2, 3), (3, 6, 9, 24)),
    "windows shifted": (lambda: WindowAttention(24, 2, 3, shifted=True), (3, 6, 9, 24)),
    "windows padded": (lambda: WindowAttention(24, 2, 3, shifted=True), (3, 5, 7, 24)),
    "mlp": (lambda: Mlp(6, 4), (3, 2, 11, 6)),
    "positions": (lambda: SamplingPositions(4, 2, 5, 1, offset_range_factor=2.0, geometry="cvpr"), (2, 9, 10, 8)),
    "positions strided": (
        lambda: SamplingPositions(4, 2, 7, 4, offset_range_factor=None, geometry="dat++"),
        (2, 9, 10, 8),
    ),
}


def function_of(case, dtype=torch.double):
    make, shape = CASES[case]
    torch.manual_seed(0)
    return Function(make(), shape, dtype)


def accelerated(function):
    other = copy.copy(function)
    other.module = accelerate(copy.deepcopy(function.module), "cpu")
    changed = [
        m for m, n in zip(other.module.modules(), function.module.modules(), strict=True) if type(m) is not type(n)
    ]
    assert changed
    return other


def values_and_gradients(function, inputs):
    out = function(*inputs)
    torch.manual_seed(1)
    upstream = torch.randn(out.shape, dtype=torch.double).bfloat16().to(out.dtype)
    return [out, *torch.autograd.grad(out, [i for i in inputs if i.requires_grad], upstream, materialize_grads=True)]


@pytest.mark.parametrize("case", CASES)
def test_accelerated_modules_have_the_plain_values_and_gradients(case):
    plain = function_of(case)
    got, want = (values_and_gradients(f, plain.inputs) for f in (accelerated(plain), plain))
    for a, b in zip(got, want, strict=True):
        assert a.dtype == b.dtype and (a - b).abs().max() < 1e-12


@pytest.mark.parametrize("case", CASES)
def test_hand_written_gradients_agree_with_finite_differences(case):
    function = accelerated(function_of(case))
    assert gradcheck(function, function.inputs, fast_mode=True)


@pytest.mark.parametrize("case", CASES)
def test_results_without_gradients_have_the_same_bits(case):
    function = accelerated(function_of(case))
    with_gradients = function(*function.inputs)
    with torch.no_grad():
        assert torch.equal(function(*function.inputs), with_gradients)
    frozen = [tensor.detach() for tensor in function.inputs]
    assert torch.equal(function(*frozen), with_gradients)


@pytest.mark.parametrize("case", ["mlp", "windows shifted", "positions"])
def test_a_frozen_module_passes_gradients_on(case):
    function = accelerated(function_of(case))
    x, *weights = function.inputs
    want = torch.autograd.grad(function(x, *weights).sum(), x)[0]
    frozen = [w.detach() for w in weights]
    assert torch.equal(torch.autograd.grad(function(x, *frozen).sum(), x)[0], want)


@pytest.mark.parametrize("case", ["deformable cvpr", "deformable dat++", "windows shifted", "mlp"])
def test_bfloat16_is_within_its_rounding(case):
    exact = function_of(case)
    function = accelerated(function_of(case, torch.bfloat16))
    want = values_and_gradients(exact, [i.detach().double().requires_grad_() for i in function.inputs])
    plain = values_and_gradients(function_of(case, torch.bfloat16), function.inputs)
    got = values_and_gradients(function, function.inputs)
    for a, b, c in zip(got, plain, want, strict=True):
        error, plain_error = (a - c).norm() / c.norm(), (b - c).norm() / c.norm()
        assert error < max(0.02, 1.5 * plain_error)


@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (5, 1), (7, 1), (9, 1), (5, 2)])
def test_depthwise_gradients_in_bfloat16_are_within_its_rounding(kernel, stride):
    torch.manual_seed(0)
    positions = SamplingPositions(4, 2, kernel, stride, offset_range_factor=2.0, geometry="cvpr").bfloat16()
    x = torch.randn(2, 14, 15, 8, dtype=torch.bfloat16, requires_grad=True)
    results = []
    for module in (accelerate(copy.deepcopy(positions), "cpu"), copy.deepcopy(positions).double()):
        out = module.convolve(x.to(module.conv.weight.dtype))
        weights = module.conv.weight, module.conv.bias
        upstream = torch.randn(out.shape, generator=torch.Generator().manual_seed(0)).bfloat16()
        results.append([out, *torch.autograd.grad(out, (x, *weights), upstream.to(out.dtype))])
    for got, want in zip(*results, strict=True):
        assert (got - want).norm() / want.norm() < 0.02


@pytest.mark.parametrize("name", CVPR + DATPP)
def test_golden_records_agree_with_accelerated_models(name):
    golden = load_golden(name)
    accelerate(golden.model, "cpu")
    with torch.no_grad():
        logits = golden.model(golden.images)
    assert (logits - golden.tensors["logits"]).abs().max() < 1e-4
    images = golden.images.requires_grad_()
    plain = torch.autograd.grad(restore(load_golden(name).model)(images).square().sum(), images)[0]
    accelerated_gradient = torch.autograd.grad(golden.model(images).square().sum(), images)[0]
    assert (accelerated_gradient - plain).norm() <= 1e-4 * plain.norm()


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_flex_attention_has_the_plain_values_and_gradients(geometry, monkeypatch):
    """The bias in torch's dense reference; the kernel itself needs a GPU."""
    # torch refuses gradients on a CPU, but its reference has them
    monkeypatch.setattr(torch.nn.attention.flex_attention, "_validate_device", lambda *tensors: None)
    plain = Function(Attend(geometry, dim=64), (3, 3, 4, 64))
    flex = copy.copy(plain)
    flex.module = swapped(plain.module, FLEX)
    got, want = (values_and_gradients(f, plain.inputs) for f in (flex, plain))
    for a, b in zip(got, want, strict=True):
        assert a.dtype == b.dtype and (a - b).abs().max() < 1e-12


@pytest.mark.parametrize(("H", "W", "k"), [(8, 9, 3), (14, 14, 7), (16, 23, 5)])
def test_flex_neighborhoods_have_the_plain_values_and_gradients(H, W, k, monkeypatch):
    monkeypatch.setattr(torch.nn.attention.flex_attention, "_validate_device", lambda *tensors: None)
    torch.manual_seed(0)
    inputs = [torch.randn(2, H, W, 3, 2, 16).requires_grad_(), torch.randn(2, 2 * k - 1, 2 * k - 1).requires_grad_()]
    got, want = (
        values_and_gradients(lambda qkv, rpb: attend(qkv, rpb, k), inputs)  # noqa: B023
        for attend in (flex_neighborhood_attention, gathered_attention)
    )
    for a, b in zip(got, want, strict=True):
        assert (a - b).abs().max() < 2e-5


def test_a_mask_made_in_evaluation_can_be_saved_for_training():
    """Autograd cannot save inference tensors."""
    with torch.inference_mode():
        mask = neighborhood_mask(9, 8, 3, "cpu")
    assert not any(isinstance(part, torch.Tensor) and part.is_inference() for part in mask.as_tuple())


def swapped(module, forms):
    """A copy of a module with the classes of `forms`, whatever the device."""
    module = copy.deepcopy(module)
    for part in module.modules():
        part.__class__ = forms.get(type(part), type(part))
    return module


@pytest.mark.parametrize("offsets", [0, 1])
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_a_bias_by_products_has_the_sampled_values_and_gradients(geometry, offsets):
    """Without offsets, positions lie on cells of the table, where the slope is that of the following cell."""
    H = W = 4
    torch.manual_seed(0)
    bias = TableBias(4, 2, (H, W), geometry).double()
    reference = reference_grid(2, 2, geometry, torch.zeros((), dtype=torch.double))
    positions = (reference + offsets * torch.rand(3, 2, 2, 2, 2, dtype=torch.double)).requires_grad_()
    got, want = (
        values_and_gradients(lambda p, t: functional_call(b, {"table": t}, (p, H, W)), (positions, bias.table))  # noqa: B023
        for b in (swapped(bias, DETERMINISTIC), bias)
    )
    for a, b in zip(got, want, strict=True):
        assert (a - b).abs().max() < 1e-12


def test_a_bias_by_products_is_not_rounded_under_autocast():
    """A position's gradient is the difference of neighboring cells, which rounding would remove far from zero."""
    torch.manual_seed(0)
    positions = (torch.rand(2, 2, 3, 3, 2) * 2 - 1).requires_grad_()
    bias = TableBias(4, 2, (7, 7), "cvpr")
    bias.table.data = 3 + 0.01 * torch.randn(4, 13, 13)
    results = []
    for module in (swapped(bias, DETERMINISTIC), bias):
        with torch.autocast("cpu", torch.bfloat16):
            out = module(positions, 7, 7)
        upstream = torch.randn(out.shape, generator=torch.Generator().manual_seed(0))
        results.append([out, *torch.autograd.grad(out, (positions, module.table), upstream)])
    for got, want in zip(*results, strict=True):
        assert got.dtype == want.dtype and (got - want).norm() < 1e-4 * want.norm()


def test_deterministic_forms_call_no_grid_sample(monkeypatch):
    """On CUDA torch refuses the gradient of grid_sample where deterministic algorithms are required."""
    model = timm.create_model("dat_nano", num_classes=3).double().train()
    x = torch.randn(2, 3, 32, 32, dtype=torch.double)
    want = torch.autograd.grad(model(x).square().sum(), list(model.parameters()))
    model = swapped(model, DETERMINISTIC)
    monkeypatch.setattr(torch, "grid_sampler_2d", None)
    got = torch.autograd.grad(model(x).square().sum(), list(model.parameters()))
    for a, b in zip(got, want, strict=True):
        assert (a - b).norm() <= 1e-11 * b.norm()


def test_gradients_have_the_same_bits_in_every_run_on_several_threads():
    """Sums over images and windows have a fixed order; no thread adds to the sum of another."""
    torch.manual_seed(0)
    windows = accelerate(WindowAttention(96, 24, 7), "cpu")  # torch adds gradients of 57,624 indexed biases atomically
    deformable = accelerate(DeformableAttention(96, 24, 6, (14, 14)), "cpu")
    x = torch.randn(8, 14, 14, 96)
    torch.set_num_threads(2)
    try:
        runs = [
            [
                g
                for layer in (windows, deformable)
                for g in torch.autograd.grad(layer(x).square().sum(), layer.parameters())
            ]
            for _ in range(3)
        ]
    finally:
        torch.set_num_threads(1)
    assert all(torch.equal(a, b) for run in runs[1:] for a, b in zip(run, runs[0], strict=True))


@pytest.mark.parametrize("case", ["mlp", "windows shifted"])
def test_float32_products_by_onednn_agree(case):
    plain = function_of(case, torch.float32)
    got, want = (values_and_gradients(f, plain.inputs) for f in (accelerated(plain), plain))
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_chunks_cover_everything_once_and_have_equal_lengths():
    for size, each in ((0, 10), (1, 10**9), (7, 900), (100, 1), (23, 300)):
        slices = chunks.chunks(size, each)
        assert [i for chunk in slices for i in range(size)[chunk]] == list(range(size))
        assert len({chunk.stop - chunk.start for chunk in slices[:-1]}) <= 1


# accelerate itself


def classes(model):
    return [type(module) for module in model.modules()]


def test_restore_undoes_accelerate_and_parameters_stay_the_same():
    model = timm.create_model("datpp_tiny", depths=(2, 2, 2, 2), num_classes=3)
    before, state = classes(model), model.state_dict()
    assert accelerate(model, "cpu") is model
    assert classes(model) != before and model.state_dict().keys() == state.keys()
    assert all(
        model.state_dict()[name] is not None and torch.equal(model.state_dict()[name], state[name]) for name in state
    )
    assert classes(restore(model)) == before


@pytest.mark.parametrize("kernels", ["plain", "auto"])
def test_cuda_keeps_the_plain_model(kernels):
    model = timm.create_model("dat_nano", num_classes=3)
    before = classes(model)
    assert classes(accelerate(model, "cuda", kernels)) == before


def test_cuda_kernels_are_chosen_by_name():
    model = timm.create_model("datpp_tiny", depths=(2, 2, 2, 2), num_classes=3)
    before = classes(model)
    names = {cls.__name__ for cls in set(classes(accelerate(model, "cuda", "flex"))) - set(before)}
    assert names == {"FlexDeformableAttention", "FlexNeighborhoodAttention"}
    assert classes(restore(model)) == before


def test_cuda_with_deterministic_algorithms_gets_deterministic_forms():
    model = timm.create_model("dat_nano", num_classes=3)
    torch.use_deterministic_algorithms(True)
    try:
        accelerate(model, "cuda")
    finally:
        torch.use_deterministic_algorithms(False)
    assert {"DeterministicDeformableAttention", "DeterministicTableBias"} <= {cls.__name__ for cls in classes(model)}


def test_kernels_that_cannot_run_are_refused():
    model = timm.create_model("dat_nano", num_classes=3)
    with pytest.raises(UserError, match="kernels=fast must be one of auto, plain, triton, flex"):
        accelerate(model, "cpu", "fast")
    with pytest.raises(UserError, match="kernels=triton needs a CUDA device, this is cpu"):
        accelerate(model, "cpu", "triton")


def test_models_of_timm_stay_as_they_are():
    model = timm.create_model("resnet10t")
    before = classes(model)
    assert classes(accelerate(model, "cpu")) == before and not is_accelerated(model)


def test_a_dat_on_a_cpu_prefers_eager_kernels_to_the_compiler():
    dat, resnet = timm.create_model("dat_nano", num_classes=3), timm.create_model("resnet10t")
    assert prefers_eager(dat, "cpu") and is_accelerated(accelerate(dat, "cpu"))
    assert not prefers_eager(resnet, "cpu") and not prefers_eager(restore(dat), "cuda")
    assert not prefers_eager(dat, "cpu", "plain")


@pytest.mark.parametrize("make", [lambda: Mlp(6, 4), lambda: WindowAttention(6, 2, 3)])
def test_modules_with_adapters_or_hooks_inside_stay_plain(make):
    class Doubled(nn.Module):
        def __init__(self, base):
            super().__init__()
            self.base, self.weight, self.bias = base, base.weight, base.bias

        def forward(self, x):
            return 2 * self.base(x)

    module, x = make(), torch.randn(2, 6, 6, 6)
    last = "fc2" if isinstance(module, Mlp) else "proj"
    with torch.no_grad():
        before = module(x)
        called = []
        handle = getattr(module, last).register_forward_hook(lambda *_: called.append(1))
        torch.testing.assert_close(accelerate(copy.deepcopy(module), "cpu")(x), before)
        assert called
        handle.remove()
        setattr(module, last, Doubled(getattr(module, last)))
        torch.testing.assert_close(accelerate(module, "cpu")(x), 2 * before)


def test_mlps_with_another_activation_bias_or_forward_stay_plain():
    def with_relu(module):
        module.act = nn.ReLU()

    def with_tanh(module):
        module.act = nn.GELU("tanh")

    def without_bias(module):
        module.fc1 = nn.Linear(6, 24, bias=False)

    def with_forward(module):
        forward = module.fc2.forward
        module.fc2.forward = lambda x: 2 * forward(x)

    x = torch.randn(2, 3, 3, 6)
    for change in (with_relu, with_tanh, without_bias, with_forward):
        module = Mlp(6, 4)
        change(module)
        expected = module(x)
        torch.testing.assert_close(accelerate(module, "cpu")(x), expected)


def test_dropout_that_is_on_in_an_evaluated_model_is_applied():
    """As in Monte Carlo dropout."""
    module = accelerate(Mlp(6, 4, drop=0.5).eval(), "cpu")
    module.drop.train()
    x = torch.randn(2, 3, 3, 6)
    assert not torch.equal(module(x), module(x))


def test_hooks_on_an_accelerated_module_are_called():
    module, x = accelerate(Mlp(6, 4), "cpu"), torch.randn(2, 3, 3, 6)
    seen = []
    module.register_forward_hook(lambda _module, inputs, out: seen.append((inputs[0].shape, out.shape)))
    module(x)
    assert seen == [(x.shape, x.shape)]


@pytest.mark.parametrize("inner", ["fc1", "fc2"])
def test_hooks_registered_later_on_inner_layers_are_called_after_restore(inner):
    module, x = accelerate(Mlp(6, 4), "cpu"), torch.randn(2, 3, 3, 6)
    called = []
    getattr(module, inner).register_forward_hook(lambda *_: called.append(1))
    out = module(x)
    assert not called  # documented: the accelerated module does not call its layers
    torch.testing.assert_close(restore(module)(x), out)
    assert called == [1] and not is_accelerated(accelerate(module, "cpu"))
