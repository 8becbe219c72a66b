"""Recording of the sampling positions and the inputs of deformable attention by forward hooks."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
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

    def note(name: str, _module: nn.Module, _inputs: tuple, output: tuple[Tensor, Tensor]) -> None:
        layers[name.rpartition(".")[0]] = Sampling(*output)

    with _after_forward(model, SamplingPositions, note):
        yield layers


@contextmanager
def record_attention(model: nn.Module) -> Iterator[dict[str, AttentionInputs]]:
    """Record input and sampling positions of every deformable layer's latest forward pass, by the attention's name.

    The order is that of the forward pass. Attention weights are not computed.
    """
    layers: dict[str, AttentionInputs] = {}
    with record_sampling(model) as sampled:

        def note(name: str, attention: DeformableAttention, inputs: tuple[Tensor], _output: Tensor) -> None:
            layers[name] = AttentionInputs(attention, inputs[0], sampled[name])

        with _after_forward(model, DeformableAttention, note):
            yield layers


@contextmanager
def _after_forward(model: nn.Module, kind: type, note: Callable[..., None]) -> Iterator[None]:
    """Call `note` with name, module, inputs and output after each forward pass of a module of this class."""
    modules = [(name, module) for name, module in model.named_modules() if isinstance(module, kind)]
    hooks = [module.register_forward_hook(partial(note, name)) for name, module in modules]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
