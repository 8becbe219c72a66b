"""Batch normalization whose running averages move once a step, whatever the number of micro-batches and processes."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class BatchNorm2d(nn.BatchNorm2d):
    """BatchNorm2d that, after `defer_running_averages`, collects the statistics of training forwards.

    Each micro-batch is normalized by its own mean and variance in any case.
    """

    deferred = False

    def forward(self, x: Tensor) -> Tensor:
        if not (self.training and self.deferred):
            return super().forward(x)
        with torch.no_grad():
            values = (x if x.dtype == torch.float64 else x.float()).transpose(0, 1).flatten(1)
            variance, mean = torch.var_mean(values, dim=1)
            self.pending.append(torch.stack([mean, variance]).to(self.running_mean.dtype))
        return F.batch_norm(x, None, None, self.weight, self.bias, True, 0.0, self.eps)


def defer_running_averages(model: nn.Module) -> None:
    """Collect the statistics of training forwards for `apply_running_averages`; drop those collected so far."""
    for module in _layers(model):
        module.deferred, module.pending = True, []


@torch.no_grad()
def apply_running_averages(model: nn.Module, total: Callable[[Tensor], Tensor], micro_batches: int) -> None:
    """Move the running averages towards the mean statistics of a step; statistics that are not finite are left out.

    Args:
        total: sum of a tensor over processes.
        micro_batches: of the step, over all processes.
    """
    layers = _layers(model)
    if not layers:
        return
    sums = [torch.stack(module.pending).sum(0).flatten() for module in layers]  # (2 * channels,) each
    means = total(torch.cat(sums)) / micro_batches
    for module, mean in zip(layers, means.split([len(part) for part in sums]), strict=True):
        module.pending = []
        for running, value in zip((module.running_mean, module.running_var), mean.view(2, -1), strict=True):
            running.lerp_(torch.where(torch.isfinite(value), value, running), module.momentum)
        module.num_batches_tracked += 1


def _layers(model: nn.Module) -> list[BatchNorm2d]:
    return [module for module in model.modules() if isinstance(module, BatchNorm2d)]
