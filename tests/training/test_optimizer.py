"""AdamW in two groups, and how it skips a step."""

import pytest
import torch
from training.small_run import tiny_model

from dat_train.training.optimizer import build_optimizer, parameter_groups


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


def test_a_step_told_of_infinity_leaves_weights_moments_and_count():
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
