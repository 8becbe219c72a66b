"""AdamW with two parameter groups, and skipped steps."""

import pytest
import torch
from timm.optim import param_groups_layer_decay
from training.small_run import tiny_model

from dat_train.training.optimizer import (
    build_optimizer,
    learning_rate_scales,
    parameter_groups,
    set_learning_rate,
)


@pytest.fixture(scope="module")
def model():
    return tiny_model()


def names(model, group: dict) -> set[str]:
    members = {id(parameter) for parameter in group["params"]}
    return {name for name, parameter in model.named_parameters() if id(parameter) in members}


def test_matrices_decay_and_the_rest_does_not(model):
    decayed, plain = parameter_groups(model, 0.05)
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.05, 0.0)
    assert len(decayed["params"]) + len(plain["params"]) == len(list(model.parameters()))
    shapes = {name: parameter.ndim for name, parameter in model.named_parameters()}
    assert all(shapes[name] > 1 and name.endswith("weight") for name in names(model, decayed))
    tables = {name for name in model.no_weight_decay() if name in shapes}
    assert tables and tables <= names(model, plain)
    assert any(shapes[name] > 1 for name in tables)  # their number of dimensions alone would not have spared them


def test_frozen_parameters_are_in_no_group():
    model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 4))
    model[0].requires_grad_(False)
    assert [len(group["params"]) for group in parameter_groups(model, 0.1)] == [1, 1]
    model[1].bias.requires_grad_(False)
    assert [len(group["params"]) for group in parameter_groups(model, 0.1)] == [1]  # no empty group


def reference_adamw(weight, gradients, *, lr, weight_decay, betas, eps):
    """AdamW as in the paper (Loshchilov and Hutter, 2019, algorithm 2), in float64."""
    first, second = torch.zeros_like(weight), torch.zeros_like(weight)
    for t, gradient in enumerate(gradients, start=1):
        weight = weight - lr * weight_decay * weight
        first = betas[0] * first + (1 - betas[0]) * gradient
        second = betas[1] * second + (1 - betas[1]) * gradient**2
        weight = weight - lr * (first / (1 - betas[0] ** t)) / ((second / (1 - betas[1] ** t)).sqrt() + eps)
    return weight


def test_five_steps_are_those_of_the_paper():
    torch.manual_seed(0)
    layer = torch.nn.Linear(4, 3).double()
    before = {name: parameter.detach().clone() for name, parameter in layer.named_parameters()}
    gradients = {name: torch.randn(5, *parameter.shape).double() for name, parameter in layer.named_parameters()}
    settings = {"lr": 1e-2, "betas": (0.8, 0.99), "eps": 1e-6}
    optimizer = build_optimizer(layer, weight_decay=0.3, **settings)
    for step in range(5):
        for name, parameter in layer.named_parameters():
            parameter.grad = gradients[name][step].clone()
        optimizer.step()
    for name, decay in (("weight", 0.3), ("bias", 0.0)):
        expected = reference_adamw(before[name], gradients[name], weight_decay=decay, **settings)
        assert (getattr(layer, name) - expected).abs().max() < 1e-12


def test_a_step_with_found_inf_leaves_weights_moments_and_count():
    layer = torch.nn.Linear(4, 3)
    optimizer = build_optimizer(layer, lr=0.1, weight_decay=0.3)

    def content():
        moments = [value for parameter in layer.parameters() for value in optimizer.state[parameter].values()]
        return torch.cat([value.detach().flatten().clone() for value in [*layer.parameters(), *moments]])

    for parameter in layer.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    before = content()
    for parameter in layer.parameters():
        parameter.grad = torch.full_like(parameter, torch.inf)
    optimizer.found_inf = torch.ones(())
    optimizer.step()
    assert torch.equal(content(), before)
    optimizer.found_inf = torch.zeros(())
    optimizer.step()
    assert not torch.equal(content(), before)


def test_layers_nearer_to_the_image_have_lower_learning_rates(model):
    scales = learning_rate_scales(model, 0.5, 1.0)
    assert scales["head.fc.weight"] == 1.0 and scales["stem.conv.weight"] == min(scales.values())
    blocks = [scales[f"stages.{i}.blocks.{j}.mlp.fc1.weight"] for i, j in ((0, 0), (1, 0), (2, 0), (2, 1), (3, 0))]
    assert blocks == sorted(set(blocks)) and blocks[-1] == 0.5 and blocks[3] == 0.5 * blocks[4]
    assert all(scales[f"stages.2.blocks.0.{part}"] == blocks[2] for part in ("norm1.weight", "attn.proj.bias"))


def test_groups_of_layers_are_those_of_timm(model):
    ours = parameter_groups(model, 0.05, layer_decay=0.5)
    theirs = param_groups_layer_decay(model, 0.05, no_weight_decay_list=model.no_weight_decay(), layer_decay=0.5)
    want = {id(p): (group["lr_scale"], group["weight_decay"]) for group in theirs for p in group["params"]}
    got = {id(p): (group["lr_scale"], group["weight_decay"]) for group in ours for p in group["params"]}
    assert got == want


def test_the_schedule_scales_the_rate_of_every_group(model):
    optimizer = build_optimizer(model, lr=1.0, weight_decay=0.05, layer_decay=0.5, head_lr_factor=3.0)
    set_learning_rate(optimizer, 0.1)
    rate = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert rate[id(model.head.fc.weight)] == pytest.approx(0.3)
    assert rate[id(model.norm.weight)] == pytest.approx(0.05)
