"""Sampling points and attention weights of the deformable layers for one image, as NumPy arrays.

A cell of a feature map with reduction r covers r x r input pixels. Sampling positions are (y, x) in [-1, 1]; -1 and 1
are the *centers* of the border cells (align_corners=True). Pixels are (x, y) from the upper left corner of the input;
the center of the first pixel is (0.5, 0.5).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn

from dat_train.data.batch import denormalize
from dat_train.errors import UserError
from dat_train.models.dat import DAT
from dat_train.models.deformable import sample_bilinear
from dat_train.models.recording import AttentionInputs, record_attention
from dat_train.viewer.offsets import stage_and_block


@dataclass(frozen=True)
class Layer:
    """One deformable layer for one image. Keys (Hk, Wk) of each group and queries (H, W) are in row-major order.

    Attention weights are recomputed from the layer's input at every access, because a large image has hundreds of
    millions. Head m belongs to group m * groups // heads.

    Attributes:
        stage, block: counted from 1, as in the papers.
        reduction: side of a cell of the feature map, in input pixels.
        recorded: attention module, its input, and its sampling positions.
    """

    stage: int
    block: int
    reduction: int
    recorded: AttentionInputs

    @property
    def title(self) -> str:
        return f"stage {self.stage}, block {self.block}"

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the feature map."""
        return tuple(self.recorded.x.shape[1:3])

    @property
    def groups(self) -> int:
        return self.positions.shape[0]

    @property
    def heads(self) -> int:
        return self.recorded.attention.num_heads

    @cached_property
    def positions(self) -> np.ndarray:
        """(groups, keys, 2) sampling positions, (y, x) in [-1, 1]."""
        return self.recorded.sampling.positions[0].flatten(1, 2).double().cpu().numpy()

    @cached_property
    def points(self) -> np.ndarray:
        """(groups, keys, 2) sampling positions in input pixels, (x, y)."""
        return position_to_pixel(self.positions, self.size, self.reduction)

    @cached_property
    def reference(self) -> np.ndarray:
        """(keys, 2) reference points in input pixels, (x, y)."""
        reference = self.recorded.sampling.reference.flatten(0, 1).double().cpu().numpy()
        return position_to_pixel(reference, self.size, self.reduction)

    @property
    def queries(self) -> np.ndarray:
        """(queries, 2) centers of the cells in input pixels, (x, y)."""
        y, x = np.indices(self.size)
        return (np.stack([x, y], axis=-1).reshape(-1, 2) + 0.5) * self.reduction

    def query_at(self, pixel: Sequence[float]) -> int:
        """Number of the query whose cell contains, or is nearest to, an input pixel (x, y)."""
        column, row = np.floor(np.asarray(pixel) / self.reduction).astype(int)
        return int(np.ravel_multi_index((row, column), self.size, mode="clip"))

    @property
    def attention(self) -> np.ndarray:
        """(heads, queries, keys) weights; for each head and query they sum to 1."""
        return attention_weights(self.recorded)[0].float().cpu().numpy()

    def by_group(self, queries: Sequence[int] | None = None) -> np.ndarray:
        """Mean of the weights over the heads of each group, (groups, queries, keys).

        For each group and query they sum to 1.

        Args:
            queries: numbers of the queries; None: all.
        """
        weights = attention_weights(self.recorded, queries)[0].float()
        return weights.unflatten(0, (self.groups, -1)).mean(1).cpu().numpy()

    @cached_property
    def received(self) -> np.ndarray:
        """(groups, keys) attention received by each key, mean over all queries and heads. The sum is 1."""
        received = mean_weights(self.recorded)[0]  # (heads, keys)
        return (received.unflatten(0, (self.groups, -1)).mean(1) / self.groups).cpu().numpy()

    def heat(self) -> np.ndarray:
        """(H, W) attention received by each cell of the map, mean over all queries and heads.

        The sum is the fraction of the attention inside the map.
        """
        return splat(self.received.reshape(-1), self.positions.reshape(-1, 2), self.size)

    def outside(self) -> np.ndarray:
        """(groups, keys) bool, True for points outside the map, beyond the centers of its border cells."""
        return (np.abs(self.positions) > 1).any(-1)


@dataclass(frozen=True)
class Inspection:
    """Prediction and deformable attention of a model for one image.

    Attributes:
        image: (height, width, 3) uint8, the input of the model; gray for one channel.
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
        """(height, width) attention of each input pixel, mean over layers. The sum is the fraction inside the map."""
        return np.mean([self.on_pixels(layer, layer.heat()) for layer in self.layers], axis=0)

    def on_pixels(self, layer: Layer, heat: np.ndarray) -> np.ndarray:
        """A layer's map (H, W), interpolated to the input's pixels (height, width), with the same sum."""
        height, width = self.image.shape[:2]
        y, x = ((np.arange(pixels) + 0.5) / layer.reduction - 0.5 for pixels in (height, width))
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
    _require_finite(logits)
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
        _require_finite(recorded.x)
        stage, block = stage_and_block(name)
        layers.append(Layer(stage, block, reductions[stage - 1], recorded))
    return layers


def _require_finite(values: Tensor) -> None:
    if not torch.isfinite(values).all():
        raise UserError("the outputs of the model are not finite (NaN): its weights are, or dtype=fp32 is needed")


@torch.inference_mode()
def attention_weights(recorded: AttentionInputs, queries: Sequence[int] | None = None) -> Tensor:
    """Attention weights of a layer, recomputed from its input.

    Args:
        queries: numbers of the queries in row-major order; None: all.

    Returns:
        (B, heads, queries, Hk * Wk), each row summing to 1.
    """
    return _weights(recorded)(slice(None) if queries is None else torch.as_tensor(queries, dtype=torch.int64))


@torch.inference_mode()
def mean_weights(recorded: AttentionInputs, at_once: int = 4096) -> Tensor:
    """Mean of the attention weights over all queries, (B, heads, Hk * Wk) float64.

    Args:
        at_once: queries whose weights are in memory at the same time.
    """
    number, weights = recorded.x[0, ..., 0].numel(), _weights(recorded)
    parts = [slice(start, start + at_once) for start in range(0, number, at_once)]
    return sum(weights(part).sum(2, dtype=torch.float64) for part in parts) / number


def _weights(recorded: AttentionInputs) -> Callable[[slice | Tensor], Tensor]:
    """Function from numbers of queries to their attention weights (B, heads, queries, keys)."""
    attention, x, (positions, _) = recorded
    B, H, W, C = x.shape
    heads = attention.num_heads
    q = attention.q(x).view(B, H * W, heads, C // heads).transpose(1, 2) * (C // heads) ** -0.5
    k = attention.kv(attention.features(x, positions))[..., :C]  # (B, keys, C)
    k = k.view(B, -1, heads, C // heads).transpose(1, 2)
    bias = None if attention.bias is None else attention.bias(positions, H, W)  # (B, heads, H * W, keys)

    def weights(queries: slice | Tensor) -> Tensor:
        logits = q[:, :, queries] @ k.transpose(2, 3)
        return (logits if bias is None else logits + bias[:, :, queries].to(logits.dtype)).softmax(-1)

    return weights


def position_to_pixel(positions: np.ndarray, size: tuple[int, int], reduction: int) -> np.ndarray:
    """(..., 2) sampling positions (y, x) on a map of `size` (H, W) -> (..., 2) pixels (x, y) of the input."""
    cells = (positions + 1) / 2 * (np.array(size) - 1)
    return ((cells + 0.5) * reduction)[..., ::-1]


def splat(weights: np.ndarray, positions: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Distribute weights at positions to the cells of a map: the transpose of bilinear sampling, its gradient.

    Contributions outside the map, where sampling reads zeros, are lost, so the sum over the map is the weight inside.

    Args:
        weights: (N,); positions: (N, 2), (y, x) in [-1, 1].
        size: (H, W).

    Returns:
        (H, W)
    """
    cells = torch.zeros(1, *size, 1, dtype=torch.float64, requires_grad=True)
    sampled = sample_bilinear(cells, torch.from_numpy(positions).view(1, 1, -1, 1, 2))  # (1, N, 1)
    (heat,) = torch.autograd.grad(sampled, cells, torch.from_numpy(weights).view_as(sampled))
    return heat[0, :, :, 0].numpy()
