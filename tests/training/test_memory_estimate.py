"""Estimate of the memory of a training step."""

import pytest
import timm
import torch
from torch.autograd.graph import saved_tensors_hooks

import dat_train.models  # noqa: F401  registers dat_nano
from dat_train.models.kernels import accelerate
from dat_train.runtime.precision import Precision, resolve_precision
from dat_train.training.memory_estimate import estimate_memory

CPU = torch.device("cpu")


def measured(model, images, precision) -> int:
    """Bytes that autograd really keeps, each storage once, without the weights."""
    own = {tensor.untyped_storage().data_ptr() for tensor in [*model.parameters(), *model.buffers()]}
    kept, alive = {}, []

    def keep(tensor):
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        alive.append(tensor)
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor), precision.context():
        model(images)
    return sum(size for place, size in kept.items() if place not in own)


@pytest.mark.parametrize("kernels", ["plain", "auto"])
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_activations_are_what_autograd_keeps(dtype, kernels):
    precision = resolve_precision(dtype, CPU)
    model = accelerate(timm.create_model("dat_nano", num_classes=10).train(), CPU, kernels)
    estimate = estimate_memory(model, (3, 32, 32), 6, precision, ema=False)["activations"]
    assert estimate == pytest.approx(measured(model, torch.randn(6, 3, 32, 32), precision), rel=0.02)


@pytest.mark.parametrize("name", ["dat_nano", pytest.param("datpp_tiny", marks=pytest.mark.long)])
def test_the_estimate_is_made_before_the_model_is_on_the_device(name):
    """With fake tensors, which need no GPU."""
    model = timm.create_model(name, num_classes=10).train()
    size = (3, *model.img_size)
    on_cuda = estimate_memory(model, size, 2, Precision("fp32", torch.float32, None, torch.device("cuda")), ema=True)
    here = estimate_memory(model, size, 2, resolve_precision("fp32", CPU), ema=True)
    assert on_cuda["weights"] == here["weights"] and on_cuda["activations"] == pytest.approx(here["activations"], 0.1)


def test_gradient_checkpointing_shows_in_the_estimate():
    model = timm.create_model("dat_nano", num_classes=10).train()
    precision = resolve_precision("fp32", CPU)
    without = estimate_memory(model, (3, 32, 32), 8, precision, ema=False)["activations"]
    model.set_grad_checkpointing()
    assert estimate_memory(model, (3, 32, 32), 8, precision, ema=False)["activations"] < without / 2


def test_a_model_counted_by_hand():
    """Linear keeps its input (B, 12), ReLU its output (B, 5), Linear the same again; 4 bytes each."""
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 5), torch.nn.ReLU(), torch.nn.Linear(5, 3))
    model[3].bias.requires_grad_(False)
    model.register_buffer("constant", torch.zeros(7))
    weights, frozen, constant = 12 * 5 + 5 + 5 * 3 + 3, 3, 7
    assert estimate_memory(model, (3, 2, 2), 10, resolve_precision("fp32", CPU), ema=True) == {
        "weights": 4 * (weights + constant),
        "gradients": 4 * (weights - frozen),
        "optimizer": 8 * (weights - frozen),
        "average": 4 * (weights + constant),
        "activations": 4 * 10 * (12 + 5),
    }


def test_a_teacher_adds_its_weights_and_nothing_else():
    model, teacher = torch.nn.Linear(12, 5), torch.nn.Linear(100, 5).requires_grad_(False)
    precision = resolve_precision("fp32", CPU)
    alone = estimate_memory(model, (3, 2, 12), 4, precision, ema=False)
    both = estimate_memory(model, (3, 2, 12), 4, precision, ema=False, teachers=[teacher])
    assert both == alone | {"teacher": 4 * (100 * 5 + 5)}


def test_the_estimate_leaves_the_model_as_it_was():
    model = timm.create_model("dat_nano", num_classes=4).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    estimate_memory(model, (3, 32, 32), 2, resolve_precision("fp32", CPU), ema=False)
    assert model.training and all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
