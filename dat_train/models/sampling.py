"""Seeing where deformable attention samples: costs nothing unless asked for."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from torch import Tensor, nn

from dat_train.models.deformable import SamplingPositions


class Sampling(NamedTuple):
    """Where one layer sampled: positions (B, groups, Hk, Wk, 2) and reference points (Hk, Wk, 2), (y, x) in [-1, 1]."""

    positions: Tensor
    reference: Tensor


@contextmanager
def record_sampling(model: nn.Module) -> Iterator[dict[str, Sampling]]:
    """Record the sampling positions of every deformable layer's latest forward pass, by the attention's name.

    with record_sampling(model) as layers:
        model(images)
    layers["stages.2.blocks.1.attn"].positions
    """
    layers: dict[str, Sampling] = {}
    hooks = [
        module.register_forward_hook(
            lambda _module, _inputs, output, name=name: layers.__setitem__(name, Sampling(*output))
        )
        for name, module in _attentions(model)
    ]
    try:
        yield layers
    finally:
        for hook in hooks:
            hook.remove()


def _attentions(model: nn.Module) -> Iterator[tuple[str, SamplingPositions]]:
    for name, module in model.named_modules():
        if isinstance(module, SamplingPositions):
            yield name.rpartition(".")[0], module
