"""Recording the sampling positions and the inputs of deformable attention by forward hooks."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from torch import Tensor, nn

from dat_train.models.deformable import DeformableAttention, SamplingPositions


class Sampling(NamedTuple):
    """Positions (B, G, Hk, Wk, 2) and reference points (Hk, Wk, 2) of one layer, (y, x) in [-1, 1]."""

    positions: Tensor
    reference: Tensor


class AttentionInputs(NamedTuple):
    """One layer, its input (B, H, W, C), and its sampling positions.

    These determine its attention weights, which `attention_weights` in viewer/attention.py computes.
    """

    attention: DeformableAttention
    x: Tensor
    sampling: Sampling


@contextmanager
def record_sampling(model: nn.Module) -> Iterator[dict[str, Sampling]]:
    """Record the sampling positions of the latest forward pass of every deformable layer, by the attention's name.

    with record_sampling(model) as layers:
        model(images)
    layers["stages.2.blocks.1.attn"].positions
    """
    layers: dict[str, Sampling] = {}
    hooks = [
        module.register_forward_hook(
            lambda _module, _inputs, output, name=name: layers.__setitem__(name.rpartition(".")[0], Sampling(*output))
        )
        for name, module in model.named_modules()
        if isinstance(module, SamplingPositions)
    ]
    try:
        yield layers
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def record_attention(model: nn.Module) -> Iterator[dict[str, AttentionInputs]]:
    """Record input and sampling positions of every deformable layer's latest forward pass, by the attention's name.

    The order is that of the forward pass. Attention weights are not computed.
    """
    layers: dict[str, AttentionInputs] = {}
    with record_sampling(model) as sampled:

        def note(name: str, attention: DeformableAttention, inputs: tuple[Tensor]) -> None:
            layers[name] = AttentionInputs(attention, inputs[0], sampled[name])

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
