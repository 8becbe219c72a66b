"""AdamW with the parameter groups of the recipe (docs/model.md, "Recipe") and of fine-tuning."""

from collections.abc import Sequence

import torch
from timm.models import group_parameters
from torch import nn


def parameter_groups(
    model: nn.Module, weight_decay: float, *, layer_decay: float = 1.0, head_lr_factor: float = 1.0
) -> list[dict]:
    """Parameter groups of equal learning rate and weight decay, without frozen parameters.

    No weight decay for one-dimensional parameters, biases, and the names in `model.no_weight_decay()` (timm's contract;
    for DAT the relative position bias tables). With the defaults there are two groups: with and without.

    Args:
        layer_decay: factor between the learning rate of a layer and that of the next layer; the last layer has the full
            rate (as in BEiT). Layers are those of `model.group_matcher()`; for DAT the stem, the blocks in order, the
            head.
        head_lr_factor: factor of the classifier's learning rate.

    Returns:
        groups for an optimizer; "lr_scale" is the ratio of their learning rate to the schedule's.
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
    """Ratio of each parameter's learning rate to the schedule's, by name."""
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

    The fused implementation updates all parameters in one kernel. The kernel skips the update if
    `optimizer.found_inf` is 1, so a non-finite step is skipped without a synchronization with the device.
    """
    groups = parameter_groups(model, weight_decay, layer_decay=layer_decay, head_lr_factor=head_lr_factor)
    return torch.optim.AdamW(groups, lr=lr, betas=tuple(betas), eps=eps, fused=True)


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of all groups: `lr` times the group's "lr_scale"."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]
