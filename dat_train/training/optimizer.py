"""AdamW with the recipe's parameter groups (docs/model.md, "Recipe"), and with those of fine-tuning."""

from collections.abc import Sequence

import torch
from timm.models import group_parameters
from torch import nn


def parameter_groups(
    model: nn.Module, weight_decay: float, *, layer_decay: float = 1.0, head_lr_factor: float = 1.0
) -> list[dict]:
    """Groups of equal learning rate and weight decay; frozen parameters are in none.

    No weight decay for one-dimensional parameters, biases, and the names in `model.no_weight_decay()` (timm's contract;
    for DAT the relative position bias tables). With the defaults there are two groups: with and without.

    Args:
        layer_decay: every layer learns by this factor slower than the one above it, the last at full rate (BEiT; layers
            are those of `model.group_matcher()`, for DAT the stem, then the blocks in order, then the head).
        head_lr_factor: of the classifier's rate.

    Returns:
        groups for an optimizer; "lr_scale" is their rate over the schedule's.
    """
    exempt = model.no_weight_decay() if hasattr(model, "no_weight_decay") else set()
    decays_biases = getattr(model, "decays_biases", False)  # as published for segmentation and detection
    scales = learning_rate_scales(model, layer_decay, head_lr_factor)
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        without = name in exempt or (not decays_biases and (parameter.ndim <= 1 or name.endswith(".bias")))
        groups.setdefault((scales[name], without), []).append(parameter)
    return [
        {"params": groups[scale, without], "weight_decay": 0.0 if without else weight_decay, "lr_scale": scale}
        for scale, without in sorted(groups)
    ]


def learning_rate_scales(model: nn.Module, layer_decay: float, head_lr_factor: float) -> dict[str, float]:
    """Each parameter's learning rate over the schedule's, by name."""
    scales = {name: 1.0 for name, _ in model.named_parameters()}
    if layer_decay != 1.0:
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
    lr: float,
    weight_decay: float,
    betas: Sequence[float] = (0.9, 0.999),
    eps: float = 1e-8,
    layer_decay: float = 1.0,
    head_lr_factor: float = 1.0,
) -> torch.optim.AdamW:
    """AdamW over `parameter_groups`.

    Fused: one kernel for all parameters, and the kernel itself skips the update when `optimizer.found_inf` is 1, which
    is how a non-finite step is skipped without asking the device about it.
    """
    groups = parameter_groups(model, weight_decay, layer_decay=layer_decay, head_lr_factor=head_lr_factor)
    return torch.optim.AdamW(groups, lr=lr, betas=tuple(betas), eps=eps, fused=True)


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """The schedule's rate for all groups, each scaled as `parameter_groups` said."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]
