"""Optimizers by timm's names, with the parameter groups of the recipes and of fine-tuning."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from timm.models import group_parameters
from timm.optim import create_optimizer_v2, get_optimizer_class, list_optimizers
from torch import Tensor, nn

from dat_train.errors import UserError

# Optimizers of timm that are not supported, with the reason
EXCLUDED = {"adahessian": "needs second derivatives"} | dict.fromkeys(
    ("kron", "kronc", "kronw"), "draws random numbers that are not a function of the step"
)
ADAM = ("adam", "adamw")  # torch's, with the fused implementation; `betas` and `eps` are their arguments
BETAS, EPS = (0.9, 0.999), 1e-8  # AdamW's defaults
NOT_ARGUMENTS = ("params", "lr", "weight_decay")  # arguments of optimizers that are not set by optim.args


def parameter_groups(
    model: nn.Module,
    weight_decay: float,
    *,
    layer_decay: float = 1.0,
    head_lr_factor: float = 1.0,
    fallback: bool = False,
) -> list[dict]:
    """Parameter groups of equal learning rate and weight decay, without frozen parameters.

    No weight decay for one-dimensional parameters, biases, and the names in `model.no_weight_decay()` (timm's contract;
    for DAT the relative position bias tables). With the defaults there are two groups: with and without.

    Args:
        layer_decay: factor between the learning rate of a layer and that of the next layer; the last layer has the full
            rate (as in BEiT). Layers are those of `model.group_matcher()`; for DAT the stem, the blocks in order, the
            head.
        head_lr_factor: factor of the classifier's learning rate.
        fallback: for Muon, which orthogonalizes matrices: separate groups, marked "use_fallback", for the names in
            `model.no_weight_decay()`, which AdamW updates. These are tables of positions, not linear maps.

    Returns:
        Groups for an optimizer; "lr_scale" is the ratio of their learning rate to that of the schedule.

    Raises:
        UserError: a layer decay for a model without `group_matcher`.
    """
    exempt = model.no_weight_decay() if hasattr(model, "no_weight_decay") else set()
    decays_biases = getattr(model, "decays_biases", False)  # as published for segmentation and detection
    scales = learning_rate_scales(model, layer_decay, head_lr_factor)
    groups: dict[tuple[float, bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        without = name in exempt or (not decays_biases and (parameter.ndim <= 1 or name.endswith(".bias")))
        groups.setdefault((scales[name], without, fallback and name in exempt), []).append(parameter)
    return [
        {"params": groups[scale, without, by_name], "weight_decay": 0.0 if without else weight_decay, "lr_scale": scale}
        | ({"use_fallback": True} if by_name else {})
        for scale, without, by_name in sorted(groups)
    ]


def learning_rate_scales(model: nn.Module, layer_decay: float, head_lr_factor: float) -> dict[str, float]:
    """Ratio of the learning rate of each parameter to that of the schedule, by name."""
    scales = {name: 1.0 for name, _ in model.named_parameters()}
    if layer_decay != 1.0:
        if not hasattr(model, "group_matcher"):
            raise UserError(
                f"optim.layer_decay={layer_decay:g}: {type(model).__name__} does not define layers (group_matcher); "
                "set it to 1"
            )
        layers = group_parameters(model, model.group_matcher(coarse=False), reverse=True)  # name -> layer, from below
        scales = {name: layer_decay ** (max(layers.values()) - layers[name]) for name in scales}
    head = {id(parameter) for parameter in model.get_classifier().parameters()} if head_lr_factor != 1.0 else set()
    return {
        name: scales[name] * (head_lr_factor if id(parameter) in head else 1.0)
        for name, parameter in model.named_parameters()
    }


def build_optimizer(
    model: nn.Module,
    *,
    name: str = "adamw",
    lr: float,
    weight_decay: float,
    betas: Sequence[float] = BETAS,
    eps: float = EPS,
    args: Mapping[str, Any] | None = None,
    layer_decay: float = 1.0,
    head_lr_factor: float = 1.0,
) -> torch.optim.Optimizer:
    """Create an optimizer over `parameter_groups`.

    Args:
        name: one of `optimizer_names()`.
        betas, eps: of adam and adamw. Other optimizers have other defaults, which `args` replaces.
        args: further arguments of the optimizer's class.
        layer_decay, head_lr_factor: see `parameter_groups`.

    Raises:
        UserError: no such optimizer or argument, or a layer decay for a model without layers.
    """
    check_name(name)
    arguments = dict(args or {})
    if name in ADAM:
        # The fused kernel skips an update without waiting for the device, see `update`.
        arguments = {"betas": tuple(betas), "eps": eps, "fused": True} | arguments
    elif tuple(betas) != BETAS or eps != EPS:
        raise UserError(
            f"optim.betas={list(betas)} and optim.eps={eps:g} are settings of adam and adamw; {name} takes them as "
            "optim.args.betas and optim.args.eps"
        )
    arguments = {key: tuple(value) if isinstance(value, list) else value for key, value in arguments.items()}
    groups = parameter_groups(
        model,
        weight_decay,
        layer_decay=layer_decay,
        head_lr_factor=head_lr_factor,
        fallback="muon" in name,
    )
    possible = set(inspect.signature(get_optimizer_class(name, bind_defaults=False)).parameters) - set(NOT_ARGUMENTS)
    if unknown := sorted(arguments.keys() - possible):
        raise UserError(f"optim.args.{unknown[0]}: {name} has no such argument; it has {', '.join(sorted(possible))}")
    try:
        return create_optimizer_v2(groups, name, lr=lr, **arguments)
    except (TypeError, ValueError, AssertionError, RuntimeError) as error:
        raise UserError(f"optim.name={name}: {str(error).splitlines()[0]}") from error


def optimizer_names() -> list[str]:
    """Names of the possible optimizers: timm's, without those that need apex or bitsandbytes."""
    return [name for name in list_optimizers(exclude_filters=["fused*", "bnb*"]) if name not in EXCLUDED]


def check_name(name: str) -> None:
    """Raise a UserError unless there is such an optimizer."""
    if name in EXCLUDED:
        raise UserError(f"optim.name={name} is not supported: it {EXCLUDED[name]}; adamw, lamb or muon are")
    if name not in optimizer_names():
        raise UserError(f"optim.name={name} does not exist; one of {', '.join(optimizer_names())}")


def update(optimizer: torch.optim.Optimizer, skip: Tensor) -> None:
    """Update the weights, unless `skip` is 1. A skipped update changes neither weights nor the optimizer's state.

    The fused kernels of adam and adamw read `skip` on the device. For other optimizers the host waits for it.

    Args:
        skip: () float32 on the device, 0 or 1; equal in all processes.
    """
    if isinstance(optimizer, torch.optim.Adam | torch.optim.AdamW) and optimizer.defaults["fused"]:
        optimizer.found_inf = skip
        optimizer.step()
        del optimizer.found_inf
    elif not skip:
        optimizer.step()


def state_size(name: str, args: Mapping[str, Any] | None = None) -> float:
    """Bytes of an optimizer's state over the bytes of the weights, measured on a layer of 64 x 64 weights."""
    layer = nn.Linear(64, 64, bias=False)
    optimizer = build_optimizer(layer, name=name, lr=1e-3, weight_decay=0.0, args=args)
    layer(torch.ones(1, 64)).sum().backward()
    optimizer.step()
    tensors = [value for state in optimizer.state.values() for value in state.values() if isinstance(value, Tensor)]
    return sum(tensor.nbytes for tensor in tensors if tensor.numel() > 1) / layer.weight.nbytes


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of all groups: `lr` times the group's "lr_scale"."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]
