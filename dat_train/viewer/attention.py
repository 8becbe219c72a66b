"""Sampling points and attention weights of the deformable layers for one image, as NumPy arrays."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn

from dat_train.data.batch import denormalize
from dat_train.models.dat import DAT
from dat_train.models.deformable import DeformableAttention
from dat_train.models.recording import AttentionInputs, record_attention
from dat_train.viewer.image_coordinates import nearest_query, position_to_pixel, query_pixels, splat


@dataclass(frozen=True)
class Layer:
    """One deformable layer for one image. Keys (Hk, Wk) of each group and queries (H, W) are in row-major order.

    Attention weights are computed from the layer's input when they are used, and not kept: the map of a large image
    has hundreds of millions. Head m belongs to group m * groups // heads.

    Attributes:
        name: of the attention module, for example "stages.2.blocks.1.attn".
        stage, block: counted from 1, as in the papers.
        size: (H, W) of the feature map.
        reduction: side of a cell of the feature map, in input pixels.
        positions: (groups, keys, 2) sampling positions, (y, x) in [-1, 1].
        points: (groups, keys, 2) sampling positions in input pixels, (x, y).
        reference: (keys, 2) reference points in input pixels, (x, y).
        recorded: attention module, its input, and its sampling positions.
    """

    name: str
    stage: int
    block: int
    size: tuple[int, int]
    reduction: int
    positions: np.ndarray
    points: np.ndarray
    reference: np.ndarray
    recorded: AttentionInputs

    @property
    def title(self) -> str:
        return f"stage {self.stage}, block {self.block}"

    @property
    def groups(self) -> int:
        return self.positions.shape[0]

    @property
    def heads(self) -> int:
        return self.recorded.attention.num_heads

    @property
    def queries(self) -> np.ndarray:
        """(queries, 2) centers of the cells in input pixels, (x, y)."""
        return query_pixels(self.size, self.reduction)

    def query_at(self, pixel: Sequence[float]) -> int:
        """Number of the query whose cell contains an input pixel (x, y)."""
        return nearest_query(np.asarray(pixel), self.size, self.reduction)

    @property
    def attention(self) -> np.ndarray:
        """(heads, queries, keys) weights; for each head and query they sum to 1."""
        return _weights(self.recorded)[0].float().cpu().numpy()

    def by_group(self, queries: Sequence[int] | None = None) -> np.ndarray:
        """Mean of the weights over the heads of each group, (groups, queries, keys).

        For each group and query they sum to 1.

        Args:
            queries: numbers of the queries; None: all.
        """
        weights = _weights(self.recorded, queries)[0].float()
        return weights.unflatten(0, (self.groups, -1)).mean(1).cpu().numpy()

    @cached_property
    def received(self) -> np.ndarray:
        """(groups, keys) attention received by each key, mean over all queries and heads. The sum is 1."""
        received = mean_weights(*self.recorded[:2], self.recorded.sampling.positions)[0]  # (heads, keys)
        return (received.unflatten(0, (self.groups, -1)).mean(1) / self.groups).cpu().numpy()

    def heat(self) -> np.ndarray:
        """(H, W) attention received by each cell of the map, mean over all queries and heads.

        The sum is the share of the attention inside the map.
        """
        return splat(self.received.reshape(-1), self.positions.reshape(-1, 2), self.size)

    def outside(self) -> np.ndarray:
        """(groups, keys) bool, True for points outside the map, beyond the centers of its border cells."""
        return (np.abs(self.positions) > 1).any(-1)


@dataclass(frozen=True)
class Inspection:
    """Prediction and deformable attention of a model for one image.

    Attributes:
        image: (height, width, 3) uint8, the input of the model; grey for one channel.
        probabilities: (classes,); empty for a model of segmentation or detection.
        layers: deformable layers, from the first to the last.
    """

    image: np.ndarray
    probabilities: np.ndarray
    layers: list[Layer]

    def top(self, number: int) -> list[tuple[int, float]]:
        """(class number, probability) of the most probable classes."""
        order = np.argsort(-self.probabilities, kind="stable")[:number]
        return [(int(label), float(self.probabilities[label])) for label in order]

    def contains(self, points: np.ndarray) -> np.ndarray:
        """(N,) bool, True for pixels (N, 2), (x, y), inside the image."""
        height, width = self.image.shape[:2]
        return ((points >= 0) & (points <= (width, height))).all(1)

    def last_of_stages(self) -> list[Layer]:
        """The last deformable layer of each stage."""
        return list({layer.stage: layer for layer in self.layers}.values())

    def heat(self) -> np.ndarray:
        """(height, width) attention of each input pixel, mean over layers. The sum is the share inside the map."""
        return np.mean([self.on_pixels(layer, layer.heat()) for layer in self.layers], axis=0)

    def on_pixels(self, layer: Layer, heat: np.ndarray) -> np.ndarray:
        """A layer's map (H, W), interpolated to the input's pixels (height, width), with the same sum."""
        height, width = self.image.shape[:2]
        y, x = (
            np.clip((np.arange(pixels) + 0.5) / layer.reduction - 0.5, 0, cells - 1)
            for pixels, cells in zip((height, width), layer.size, strict=True)
        )
        rows = np.stack([np.interp(y, np.arange(layer.size[0]), column) for column in heat.T], axis=1)
        smooth = np.stack([np.interp(x, np.arange(layer.size[1]), row) for row in rows], axis=0)
        return smooth * (heat.sum() / smooth.sum()) if smooth.sum() else smooth


@torch.inference_mode()
def inspect_image(
    model: nn.Module, image: Tensor, mean: Sequence[float], std: Sequence[float], *, multi_label: bool = False
) -> Inspection:
    """Run a classifier on one image and record the attention of its deformable layers.

    Args:
        model: a DAT in evaluation mode; its features may have any dtype.
        image: (C, height, width) with 1 or 3 channels, normalized with `mean` and `std`, on the model's device.
        multi_label: probabilities are sigmoids of the logits, independent of each other, instead of their softmax.
    """
    with record_attention(model) as attended:
        logits = model(image[None])
    logits = logits[0].double()
    probabilities = (logits.sigmoid() if multi_label else logits.softmax(0)).cpu().numpy()
    return Inspection(denormalize(image, mean, std), probabilities, recorded_layers(model, attended))


def recorded_layers(model: nn.Module, attended: dict[str, AttentionInputs]) -> list[Layer]:
    """Layers of a forward pass of one image.

    Args:
        model: a DAT, or a model with a DAT as its backbone.
        attended: from `record_attention(model)`.
    """
    backbone = next(module for module in model.modules() if isinstance(module, DAT))
    reductions = [info["reduction"] for info in backbone.feature_info]
    layers = []
    for name, recorded in attended.items():
        stage, block = map(int, re.search(r"stages\.(\d+)\.blocks\.(\d+)\.attn$", name).groups())
        size, reduction = (recorded.x.shape[1], recorded.x.shape[2]), reductions[stage]
        positions = recorded.sampling.positions[0].flatten(1, 2).double().cpu().numpy()  # (groups, keys, 2)
        reference = recorded.sampling.reference.flatten(0, 1).double().cpu().numpy()
        layers.append(
            Layer(
                name,
                stage + 1,
                block=block + 1,
                size=size,
                reduction=reduction,
                positions=positions,
                points=position_to_pixel(positions, size, reduction),
                reference=position_to_pixel(reference, size, reduction),
                recorded=recorded,
            )
        )
    return layers


def _weights(recorded: AttentionInputs, queries: Sequence[int] | None = None) -> Tensor:
    return attention_weights(recorded.attention, recorded.x, recorded.sampling.positions, queries)


@torch.inference_mode()
def attention_weights(
    attention: DeformableAttention, x: Tensor, positions: Tensor, queries: Sequence[int] | None = None
) -> Tensor:
    """Attention weights of a layer, recomputed from its input.

    Args:
        x: (B, H, W, C) input of the layer.
        positions: (B, groups, Hk, Wk, 2) sampling positions.
        queries: numbers of the queries in row-major order; None: all.

    Returns:
        (B, heads, queries, Hk * Wk), each row summing to 1.
    """
    q, k, bias = _logit_parts(attention, x, positions)
    if queries is not None:
        chosen = torch.as_tensor(queries, dtype=torch.int64, device=q.device)
        q, bias = q[:, :, chosen], None if bias is None else bias[:, :, chosen]
    return _softmax(q, k, bias)


@torch.inference_mode()
def mean_weights(attention: DeformableAttention, x: Tensor, positions: Tensor, at_once: int = 4096) -> Tensor:
    """Mean of the attention weights over all queries, (B, heads, Hk * Wk) float64.

    Args:
        x, positions: as in `attention_weights`.
        at_once: queries whose weights are in memory at the same time.
    """
    q, k, bias = _logit_parts(attention, x, positions)
    total = 0
    for start in range(0, q.shape[2], at_once):
        rows = slice(start, start + at_once)
        total = total + _softmax(q[:, :, rows], k, None if bias is None else bias[:, :, rows]).sum(
            2, dtype=torch.float64
        )
    return total / q.shape[2]


def _logit_parts(attention: DeformableAttention, x: Tensor, positions: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
    """Queries (B, heads, H * W, d), scaled, keys (B, heads, keys, d), and bias (B, heads, H * W, keys) or None."""
    B, H, W, C = x.shape
    heads = attention.num_heads
    q = attention.q(x).view(B, H * W, heads, C // heads).transpose(1, 2) * (C // heads) ** -0.5
    k = attention.kv(attention.features(x, positions))[..., :C]  # (B, keys, C)
    k = k.view(B, -1, heads, C // heads).transpose(1, 2)
    return q, k, None if attention.bias is None else attention.bias(positions, H, W)


def _softmax(q: Tensor, k: Tensor, bias: Tensor | None) -> Tensor:
    logits = q @ k.transpose(2, 3)
    return (logits if bias is None else logits + bias.to(logits.dtype)).softmax(-1)
