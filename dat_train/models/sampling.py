"""Seeing where deformable attention samples, and from what: costs nothing unless asked for."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from torch import Tensor, nn

from dat_train.models.deformable import DeformableAttention, SamplingPositions


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


class Attended(NamedTuple):
    """What one layer attended with: the layer, its input (B, H, W, C), and where it sampled.

    Enough to compute its attention again; `attention_weights` in viewer/attention.py does.
    """

    attention: DeformableAttention
    x: Tensor
    sampling: Sampling


@contextmanager
def record_attention(model: nn.Module) -> Iterator[dict[str, Attended]]:
    """Record the input and the sampling of every deformable layer's latest forward pass, by the attention's name.

    In the order of the forward pass. No weights are computed: attention itself never has them in memory.
    """
    layers: dict[str, Attended] = {}
    with record_sampling(model) as sampled:

        def note(name: str, attention: DeformableAttention, inputs: tuple[Tensor]) -> None:
            layers[name] = Attended(attention, inputs[0], sampled[name])

        hooks = [
            module.register_forward_hook(lambda module, inputs, _output, name=name: note(name, module, inputs))
            for name, module in model.named_modules()
            if isinstance(module, DeformableAttention)
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
