"""Exponential moving average (EMA) of the weights of a training run."""

import copy

import torch
from torch import nn


class Ema:
    """Copy of `model` with an exponential moving average (EMA) of its weights: w <- d w + (1 - d) w_model per step.

    Args:
        warmup: d = min(decay, (1 + step) / (10 + step)): the average of the first steps is short, so that a run of a
            few thousand steps is not dominated by its random initialization. It depends only on the step and needs no
            state. Otherwise d = decay, as in timm.
    """

    def __init__(self, model: nn.Module, decay: float, warmup: bool = True) -> None:
        self.decay = decay
        self.warmup = warmup
        self.model = copy.deepcopy(model).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Update the average with the weights of `model` after step `step` (0-based)."""
        decay = min(self.decay, (1 + step) / (10 + step)) if self.warmup else self.decay
        torch._foreach_lerp_(list(self.model.parameters()), list(model.parameters()), 1 - decay)
        for mine, theirs in zip(self.model.buffers(), model.buffers(), strict=True):
            mine.copy_(theirs)
