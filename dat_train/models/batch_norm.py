"""Batch normalization with running averages that do not depend on the number of micro-batches and processes.

Each micro-batch is normalized by its own statistics. They are collected during the forward passes of a step, and the
running averages are updated once, with their mean. This applies to every subclass of PyTorch's batch normalization,
such as timm's with an activation; modules are not replaced.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

BUFFERS = ("running_mean", "running_var", "num_batches_tracked")


def defer_running_averages(model: nn.Module) -> None:
    """Collect the statistics of training forwards for `apply_running_averages`; drop those collected so far."""
    for module in _layers(model):
        if not hasattr(module, "pending"):
            module.register_forward_pre_hook(_use_empty_averages)
            module.register_forward_hook(_collect)
        module.pending = []


@torch.no_grad()
def apply_running_averages(model: nn.Module, total: Callable[[Tensor], Tensor]) -> None:
    """Update the running averages with the mean statistics of a step; non-finite statistics are ignored.

    Args:
        total: sum of a tensor over processes.
    """
    layers = [module for module in _layers(model) if module.pending]  # frozen ones have none
    if not layers:
        return
    # mean, variance, and the number of forwards: with gradient checkpointing, each micro-batch has two
    counts = [module.running_mean.new_full((1,), len(module.pending)) for module in layers]
    sums = [torch.cat([torch.stack(m.pending).sum(0), count]) for m, count in zip(layers, counts, strict=True)]
    sums = total(torch.cat(sums)).split([len(part) for part in sums])
    for module, values in zip(layers, sums, strict=True):
        module.pending = []
        module.num_batches_tracked += 1
        factor = _factor(module)
        means = (values[:-1] / values[-1]).view(2, -1)
        for running, mean in zip((module.running_mean, module.running_var), means, strict=True):
            running.lerp_(torch.where(torch.isfinite(mean), mean, running), factor)


def _use_empty_averages(module: _BatchNorm, inputs: tuple[Tensor, ...]) -> None:
    """Replace the buffers by zeros; after the forward pass they contain the statistics of its images, scaled."""
    if module.training:
        module.kept = {name: getattr(module, name) for name in BUFFERS}
        for name, buffer in module.kept.items():  # not in place: autograd refers to the buffers
            setattr(module, name, torch.zeros_like(buffer))


def _collect(module: _BatchNorm, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    """Collect the statistics (2 * channels,) and restore the buffers."""
    if module.training:
        moved = torch.cat([module.running_mean, module.running_var])
        module.pending.append(moved / _factor(module))
        for name, buffer in module.kept.items():
            setattr(module, name, buffer)
        del module.kept


def _factor(module: _BatchNorm) -> float:
    """Weight of new statistics; momentum=None averages over all steps."""
    return 1 / int(module.num_batches_tracked) if module.momentum is None else module.momentum


def _layers(model: nn.Module) -> list[_BatchNorm]:
    return [module for module in model.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]
