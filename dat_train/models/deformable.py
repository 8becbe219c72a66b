"""Deformable attention: block letter `D` (CVPR 2022 section 3.2; DAT++ section 3; spec: "Deformable attention")."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dat_train.errors import UserError
from dat_train.models.blocks import Linear, depthwise_conv
from dat_train.models.geometry import GEOMETRIES, reference_points
from dat_train.models.kernels.deformable_attention import biased_attention
from dat_train.models.kernels.depthwise import depthwise_conv2d
from dat_train.models.kernels.sampling import sample_bilinear
from dat_train.models.position_bias import FixedBias, LogCPB, TableBias

BIASES = ("table", "fixed", "dwc", "log_cpb", "none")


class SamplingPositions(nn.Module):
    """Predicts from the queries where keys and values are sampled: reference points plus learned offsets.

    A forward hook on this module sees the positions of every layer (`record_sampling` in models/sampling.py): looking
    costs nothing when nobody looks.

    Args:
        channels: channels of one group, C / groups.
        groups: offset groups; the network's weights are shared by all of them.
        kernel_size, stride: of the depthwise convolution; the stride is the ratio of queries to keys along an axis.
        offset_range: s > 0 limits an offset (tanh) to s / 2 cells of the reference grid along each axis; None, or a
            negative number as in the published configurations, leaves it free and bounds the position.
        geometry: "cvpr" or "dat++"; the two papers place reference points differently (spec: steps 2 to 5).
        offsets: False stays on the reference points; the offset network is there, frozen, as published.

    Shape: queries (B, H, W, C) -> positions (B, groups, Hk, Wk, 2) as (y, x) in [-1, 1], and the reference points
    (Hk, Wk, 2) they started from. Both at least float32, whatever the queries' dtype.
    """

    def __init__(
        self,
        channels: int,
        groups: int,
        kernel_size: int,
        stride: int,
        offset_range: float | None,
        geometry: str,
        offsets: bool = True,
    ) -> None:
        super().__init__()
        self.groups = groups
        self.offsets = offsets
        self.stride = stride
        self.padding = 0 if geometry == "dat++" and kernel_size == stride else kernel_size // 2
        self.offset_range = offset_range if offset_range is not None and offset_range > 0 else None
        self.geometry = geometry
        self.conv = nn.Conv2d(channels, channels, kernel_size, stride, self.padding, groups=channels)
        self.norm = nn.LayerNorm(channels)
        self.act = nn.GELU()
        self.proj = nn.Linear(channels, 2, bias=False)
        if not offsets:
            self.requires_grad_(False)

    def key_size(self, H: int, W: int) -> tuple[int, int]:
        """(Hk, Wk) for a map of H x W queries."""
        kernel = self.conv.kernel_size[0]
        return (
            max((H + 2 * self.padding - kernel) // self.stride + 1, 1),
            max((W + 2 * self.padding - kernel) // self.stride + 1, 1),
        )

    def forward(self, queries: Tensor) -> tuple[Tensor, Tensor]:
        B, H, W, C = queries.shape
        G = self.groups
        if not self.offsets:
            Hk, Wk = self.key_size(H, W)
            reference = self.reference(Hk, Wk, queries)
            return self._bound(reference).expand(B, G, Hk, Wk, 2), reference
        # One depthwise convolution over all channels, the shared kernel repeated: no copy of q into groups.
        bias = self.conv.bias
        assert bias is not None
        weight = self.conv.weight.repeat(G, 1, 1, 1)
        offset = depthwise_conv2d(queries, weight, bias.repeat(G), self.stride, self.padding)
        Hk, Wk = offset.shape[1], offset.shape[2]
        offset = offset.reshape(B, Hk, Wk, G, C // G)
        offset = self.proj(self.act(self.norm(offset)))  # (B, Hk, Wk, G, 2)
        # Positions in bfloat16 would be off by whole pixels on a large map; from here on at least float32.
        offset = offset.permute(0, 3, 1, 2, 4).to(torch.promote_types(offset.dtype, torch.float32))
        reference = self.reference(Hk, Wk, queries)
        if self.offset_range is not None:
            cells_y, cells_x = (Hk, Wk) if self.geometry == "cvpr" else (max(Hk - 1, 1), max(Wk - 1, 1))
            dy, dx = torch.tanh(offset).unbind(-1)
            # numbers, not a tensor of two: a tensor made here would wait for the device
            offset = torch.stack((dy * (self.offset_range / cells_y), dx * (self.offset_range / cells_x)), dim=-1)
        return self._bound(reference + offset), reference

    def _bound(self, position: Tensor) -> Tensor:
        """Positions inside [-1, 1] where offsets are free; a limited offset may leave the map a little."""
        if self.offset_range is not None:
            return position
        return torch.tanh(position) if self.geometry == "cvpr" else position.clamp(-1, 1)

    def reference(self, Hk: int, Wk: int, like: Tensor) -> Tensor:
        """(Hk, Wk, 2) reference points, (y, x), at least float32."""
        like = like.new_empty(0, dtype=torch.promote_types(like.dtype, torch.float32))
        y = reference_points(Hk, self.geometry, like)
        x = reference_points(Wk, self.geometry, like)
        return torch.stack(torch.meshgrid(y, x, indexing="ij"), dim=-1)


class DeformableAttention(nn.Module):
    """Every query attends to the same small set of keys, sampled where an offset network puts them.

    Works alone on any (B, H, W, C) map, for example inside a CNN:

        attention = DeformableAttention(dim=64, heads=2, groups=1, size=(28, 28), stride=2)
        y = attention(x)  # (B, H, W, 64) -> (B, H, W, 64), any H, W

    Args:
        dim: channels C, a multiple of `heads`.
        heads: attention heads M, a multiple of `groups`.
        groups: offset groups G; each samples its own C / G channels at its own positions.
        size: (H, W) of the map the bias table is made for (other maps sample the same table).
        kernel_size, stride: of the offset network.
        offset_range: twice the largest offset along an axis, in cells of the reference grid; None: free offsets,
            bounded positions.
        bias: "table", "fixed", "dwc", "log_cpb" or "none".
        offsets: False keeps the keys on the reference grid ("cvpr") or average-pools them ("dat++").
        geometry: "cvpr" or "dat++".

    Raises:
        UserError: dim, heads and groups do not divide, or an unknown bias or geometry.

    Shape: (B, H, W, C) -> (B, H, W, C).
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        groups: int,
        size: tuple[int, int],
        kernel_size: int = 5,
        stride: int = 1,
        offset_range: float | None = 2.0,
        bias: str = "table",
        offsets: bool = True,
        geometry: str = "cvpr",
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
    ) -> None:
        super().__init__()
        if dim % heads or heads % groups:
            raise UserError(f"dim={dim} must be a multiple of heads={heads}, and heads of groups={groups}")
        if bias not in BIASES:
            raise UserError(f"bias={bias!r} is not a position bias; one of {', '.join(BIASES)}")
        if geometry not in GEOMETRIES:
            raise UserError(f"geometry={geometry!r} is unknown; one of {', '.join(GEOMETRIES)}")
        self.heads = heads
        self.groups = groups
        self.attn_drop = attn_drop
        self.pooled = not offsets and geometry == "dat++"
        self.q = Linear(dim, dim)
        self.sampling = SamplingPositions(dim // groups, groups, kernel_size, stride, offset_range, geometry, offsets)
        self.kv = Linear(dim, 2 * dim)
        self.bias = self._make_bias("none" if self.pooled else bias, size, geometry)
        self.dwc = depthwise_conv(dim) if bias == "dwc" and not self.pooled else None
        self.proj = Linear(dim, dim)
        self.proj_drop = nn.Dropout(proj_drop)

    def _make_bias(self, bias: str, size: tuple[int, int], geometry: str) -> nn.Module | None:
        if bias == "table":
            return TableBias(self.heads, self.groups, size, geometry)
        if bias == "fixed":
            return FixedBias(self.heads, size, self.sampling.key_size(*size))
        if bias == "log_cpb":
            return LogCPB(self.heads, self.groups, geometry)
        return None

    def forward(self, x: Tensor) -> Tensor:
        H, W = x.shape[1], x.shape[2]
        q = self.q(x)  # (B, H, W, C)
        sampled, positions = self._sample(x, q)  # (B, keys, C)
        kv = self.kv(sampled)
        dropout = self.attn_drop if self.training else 0.0
        if self.bias is None:
            out = biased_attention(q, kv, self.heads, None, dropout)
        elif hasattr(self.bias, "attend"):  # a table, which is sampled inside the attention
            out = self.bias.attend(q, kv, positions, dropout)
        else:
            out = biased_attention(q, kv, self.heads, self.bias(positions, H, W), dropout)
        if self.dwc is not None:
            out = out + self.dwc(q)
        return self.proj_drop(self.proj(out))

    def _sample(self, x: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
        """Features (B, keys, C) at the sampling positions, and the positions (B, groups, Hk, Wk, 2)."""
        positions, _ = self.sampling(q)
        return self.features(x, positions), positions

    def features(self, x: Tensor, positions: Tensor) -> Tensor:
        """What keys and values are made of, (B, keys, C): a map (B, H, W, C) sampled at the positions, or pooled."""
        if self.pooled:
            return _pooled(x, positions.shape[2], positions.shape[3])
        return sample_bilinear(x, positions)


def _pooled(x: Tensor, Hk: int, Wk: int) -> Tensor:
    """Averages of (B, H, W, C) over Hk x Wk cells: (B, Hk * Wk, C)."""
    B, H, W, C = x.shape
    if H % Hk == 0 and W % Wk == 0:
        return x.view(B, Hk, H // Hk, Wk, W // Wk, C).mean((2, 4)).flatten(1, 2)
    return F.adaptive_avg_pool2d(x.permute(0, 3, 1, 2), (Hk, Wk)).flatten(2).transpose(1, 2)
