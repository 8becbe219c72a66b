"""Optimizers by name: parameter groups, skipped steps, exact resume."""

import io

import pytest
import timm
import torch
from timm.optim import param_groups_layer_decay
from training.small_run import tiny_model

from dat_train.errors import UserError
from dat_train.runtime.checkpoint_file import canonical
from dat_train.training.optimizer import (
    build_optimizer,
    learning_rate_scales,
    optimizer_names,
    parameter_groups,
    set_learning_rate,
    state_size,
    update,
)
from dat_train.training.state import TrainState


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


def small_state(name: str, **settings) -> TrainState:
    """A convolution and a linear layer with an optimizer over two groups."""
    torch.manual_seed(0)
    layers = [torch.nn.Conv2d(3, 8, 3), torch.nn.Flatten(), torch.nn.Linear(32, 6)]
    model = torch.nn.Sequential(*layers)
    optimizer = build_optimizer(model, name=name, lr=1e-2, weight_decay=0.1, **settings)
    return TrainState(model, optimizer, torch.amp.GradScaler("cpu", enabled=False))


def train(state: TrainState, steps: range, bad: tuple[int, ...] = ()) -> None:
    """Steps on images that depend on the number of the step; the gradients of steps in `bad` are not finite."""
    for step in steps:
        images = torch.randn(4, 3, 4, 4, generator=torch.Generator().manual_seed(step))
        state.model.zero_grad(set_to_none=False)
        (state.model(images).square().mean() * (torch.nan if step in bad else 1.0)).backward()
        set_learning_rate(state.optimizer, 1e-2 * (step + 1))
        update(state.optimizer, torch.tensor(float(step in bad)))
        state.step += 1


def content(state: TrainState) -> bytes:
    """Bytes of a checkpoint."""
    file = io.BytesIO()
    torch.save(canonical(state.state_dict(0)), file)
    return file.getvalue()


@pytest.mark.parametrize("name", optimizer_names())
def test_a_resumed_run_ends_with_the_bytes_of_an_uninterrupted_one(name):
    through, first, second = (small_state(name) for _ in range(3))
    start = content(through)
    train(through, range(4))
    train(first, range(2))
    second.load_state_dict(torch.load(io.BytesIO(content(first)), weights_only=True))
    train(second, range(2, 4))
    assert content(second) == content(through) != start


@pytest.mark.parametrize("name", optimizer_names())
def test_skipped_steps_change_neither_weights_nor_state(name):
    """Also the first step of a run, before which an optimizer has no state."""
    with_gaps, without = small_state(name), small_state(name)
    train(with_gaps, range(0, 1), bad=(0,))
    for step in (1, 2):
        train(with_gaps, range(step, step + 1))
        train(without, range(step, step + 1))
    before = canonical([with_gaps.model.state_dict(), with_gaps.optimizer.state_dict()])
    train(with_gaps, range(3, 4), bad=(3,))
    after = canonical([with_gaps.model.state_dict(), with_gaps.optimizer.state_dict()])
    for group in [*before[1]["param_groups"], *after[1]["param_groups"]]:
        del group["lr"]  # follows the step
    assert equal(before, after)
    assert all(map(torch.equal, with_gaps.model.parameters(), without.model.parameters()))


def equal(a: object, b: object) -> bool:
    """Returns True if two nested states have the same content."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    return a == b


def test_optimizers_are_those_of_timm_with_its_defaults():
    groups = small_state("sgd").optimizer.param_groups
    assert all(group["momentum"] == 0.9 and group["nesterov"] for group in groups)
    assert type(small_state("lamb").optimizer).__module__ == "timm.optim.lamb"
    assert small_state("lamb").optimizer.defaults["eps"] == 1e-6  # its own, not AdamW's
    assert small_state("lion").optimizer.defaults["betas"] == (0.9, 0.99)
    assert small_state("lion", args={"betas": [0.95, 0.98]}).optimizer.defaults["betas"] == (0.95, 0.98)


def test_muon_leaves_tables_of_positions_and_biases_to_adamw():
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=1, embed_dim=32, num_heads=2, num_classes=4)
    optimizer = build_optimizer(model, name="muon", lr=1e-2, weight_decay=0.1)
    model(torch.randn(2, 3, 32, 32)).sum().backward()
    optimizer.step()
    fallback = {name for name, p in model.named_parameters() if not optimizer.state[p]["use_muon"]}
    matrices = {name for name, p in model.named_parameters() if p.ndim > 1 and name not in model.no_weight_decay()}
    assert fallback == {name for name, _ in model.named_parameters()} - matrices and "pos_embed" in fallback


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"name": "adamm"}, "optim.name=adamm does not exist; one of adabelief, "),
        ({"name": "kron"}, "optim.name=kron is not supported: it draws random numbers"),
        ({"name": "fusedlamb"}, "optim.name=fusedlamb does not exist"),
        ({"name": "lion", "args": {"eps": 1e-6}}, "optim.args.eps: lion has no such argument; it has betas, "),
        ({"name": "lion", "betas": (0.9, 0.95)}, "optim.betas=[0.9, 0.95] and optim.eps=1e-08 are settings of adam"),
        ({"name": "sgd", "args": {"momentum": -1}}, "optim.name=sgd: Invalid momentum value: -1"),
        ({"name": "adamw", "layer_decay": 0.8}, "optim.layer_decay=0.8: Linear does not define layers (group_matcher)"),
    ],
)
def test_impossible_settings_are_one_line(settings, text):
    with pytest.raises(UserError) as caught:
        build_optimizer(torch.nn.Linear(2, 3), lr=1e-3, weight_decay=0.1, **settings)
    assert str(caught.value).startswith(text) and "\n" not in str(caught.value)


def test_the_size_of_the_state_is_measured():
    sizes = {name: state_size(name) for name in ("adamw", "sgd", "lamb", "lion", "muon")}
    assert sizes == {"adamw": 2, "sgd": 1, "lamb": 2, "lion": 1, "muon": 1}
    assert state_size("sgd", {"momentum": 0.0, "nesterov": False}) == 0


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
