"""AdamW with the recipe's parameter groups (spec: "Recipe")."""

from collections.abc import Sequence

import torch
from torch import nn


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """Two groups, with and without weight decay; frozen parameters are in neither.

    No decay for one-dimensional parameters, biases, and the names in `model.no_weight_decay()` (timm's contract; for
    DAT the relative position bias tables).
    """
    exempt = model.no_weight_decay() if hasattr(model, "no_weight_decay") else set()
    decayed, plain = [], []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        without = parameter.ndim <= 1 or name.endswith(".bias") or name in exempt
        (plain if without else decayed).append(parameter)
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def build_optimizer(
    model: nn.Module, *, lr: float, weight_decay: float, betas: Sequence[float] = (0.9, 0.999), eps: float = 1e-8
) -> torch.optim.AdamW:
    """AdamW over `parameter_groups`.

    Fused: one kernel for all parameters, and the kernel itself skips the update when `optimizer.found_inf` is 1, which
    is how a non-finite step is skipped without asking the device about it.
    """
    return torch.optim.AdamW(parameter_groups(model, weight_decay), lr=lr, betas=tuple(betas), eps=eps, fused=True)
