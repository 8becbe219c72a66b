"""Deformable attention with offsets, sampling and position bias: block letter `D` (docs/model.md, steps 1 to 8).

Coordinates are (y, x), where -1 and 1 are the centers of a map's border pixels; points may be outside of the map. In
shapes, B is the batch, G the offset groups, M the heads, H x W the queries and Hk x Wk the keys. Functions with control
flow on shapes are marked with torch.fx.wrap: symbolic tracing records a call of them.

Sources: Xia et al., Vision Transformer with Deformable Attention, CVPR 2022 (arXiv 2201.00520), section 3.2, and DAT++
(arXiv 2309.01430), section 3. Their reference points and queries differ: geometry="cvpr" and geometry="dat++".
"""

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor, nn

from dat_train.errors import UserError, require_one_of
from dat_train.models.blocks import depthwise_conv
from dat_train.models.legacy_names import accept_legacy_names

GEOMETRIES = ("cvpr", "dat++")
POSITION_BIASES = ("table", "fixed", "dwc", "log_cpb", "none")

torch.fx.wrap("rearrange")


class DeformableAttention(nn.Module):
    """Attention of every query to the same few keys, sampled at positions that an offset network predicts.

    `dat_train.models.kernels.accelerate` may replace the class of a module by a faster subclass with the same
    parameters. The module can be used alone on any (B, H, W, C) map, for example inside a CNN:

        attention = DeformableAttention(dim=64, num_heads=2, groups=1, size=(28, 28), stride=2)
        y = attention(x)  # (B, H, W, 64) -> (B, H, W, 64), any H, W

    Args:
        dim: channels C, a multiple of `num_heads`.
        num_heads: attention heads M, a multiple of `groups`.
        groups: offset groups G; each samples its own C / G channels at its own positions.
        size: (H, W) of the map that determines the bias table. Maps of other sizes sample the same table.
        kernel_size, stride: of the offset network.
        offset_range_factor: largest offset along an axis, in half cells of the reference grid. None or a negative
            number: free offsets, bounded positions.
        position_bias: "table", "fixed", "dwc", "log_cpb" or "none".
        offsets: False: keys stay on the reference grid ("cvpr") or are average-pooled, without a bias ("dat++").
        geometry: "cvpr" or "dat++".
        attn_drop: dropout probability of the attention weights.
        proj_drop: dropout probability of the output.

    Raises:
        UserError: dim, num_heads and groups do not divide; unknown position bias or geometry.

    Shape: (B, H, W, C) -> (B, H, W, C).
    """

    @accept_legacy_names
    def __init__(
        self,
        dim: int,
        num_heads: int,
        groups: int,
        size: tuple[int, int],
        kernel_size: int = 5,
        *,
        stride: int = 1,
        offset_range_factor: float | None = 2.0,
        position_bias: str = "table",
        offsets: bool = True,
        geometry: str = "cvpr",
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
    ) -> None:
        super().__init__()
        if dim % num_heads or num_heads % groups:
            raise UserError(
                f"dim={dim} must be a multiple of num_heads={num_heads}, and num_heads a multiple of groups={groups}"
            )
        require_one_of("position_bias", position_bias, POSITION_BIASES)
        require_one_of("geometry", geometry, GEOMETRIES)
        self.num_heads = num_heads
        self.groups = groups
        self.attn_drop = attn_drop
        self.pooled = not offsets and geometry == "dat++"
        self.q = nn.Linear(dim, dim)
        self.sampling = SamplingPositions(
            dim // groups, groups, kernel_size, stride, offset_range_factor=offset_range_factor, geometry=geometry,
            offsets=offsets,
        )  # fmt: skip
        self.kv = nn.Linear(dim, 2 * dim)
        kind = "none" if self.pooled else position_bias
        self.bias = None
        if kind == "table":
            self.bias = TableBias(num_heads, groups, size, geometry)
        elif kind == "fixed":
            self.bias = FixedBias(num_heads, size, self.sampling.key_size(*size))
        elif kind == "log_cpb":
            self.bias = LogCPB(num_heads, groups, geometry)
        self.dwc = depthwise_conv(dim) if kind == "dwc" else None
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(proj_drop)

    def forward(self, x: Tensor) -> Tensor:
        q = self.q(x)  # step 1: (B, H, W, C)
        positions, _ = self.sampling(q)  # steps 2 to 5: (B, G, Hk, Wk, 2)
        features = self.features(x, positions)  # step 6: (B, keys, C)
        kv = self.kv(features)  # step 7: (B, keys, 2C), keys, then values
        out = self.attend(q, kv, positions)  # step 8: (B, H, W, C)
        if self.dwc is not None:
            out = out + self.dwc(q)
        return self.proj_drop(self.proj(out))

    def features(self, x: Tensor, positions: Tensor) -> Tensor:
        """Step 6: features of a map (B, H, W, C) at the positions, (B, keys, C); average-pooled without offsets."""
        return average_pool(x, positions) if self.pooled else sample_bilinear(x, positions)

    def attend(self, q: Tensor, kv: Tensor, positions: Tensor) -> Tensor:
        """Step 8: softmax(q k^T / sqrt(d) + bias) v for q (B, H, W, C) and kv (B, keys, 2C): (B, H, W, C)."""
        H, W = q.shape[1], q.shape[2]
        bias = None if self.bias is None else self.bias(positions, H, W).to(q.dtype)
        q = rearrange(q, "b h w (m d) -> b m (h w) d", m=self.num_heads)
        k, v = rearrange(kv, "b n (kv m d) -> kv b m n d", kv=2, m=self.num_heads)
        dropout = self.attn_drop if self.training else 0.0
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=dropout)
        return rearrange(out, "b m (h w) d -> b h w (m d)", h=H)


class SamplingPositions(nn.Module):
    """Steps 2 to 5: positions of the keys, predicted from the queries.

    `record_sampling` (models/recording.py) reads the positions by a forward hook on this module.

    Args:
        channels: channels of a group, C / G.
        groups: offset groups G; they share the weights of the offset network.
        kernel_size, stride: of the depthwise convolution. The stride is the ratio of queries to keys along an axis.
        offset_range_factor: as in `DeformableAttention`.
        geometry: "cvpr" or "dat++".
        offsets: False: the positions are the reference points. The offset network is kept, frozen, as published.

    Shape: queries (B, H, W, C) -> positions (B, G, Hk, Wk, 2) and reference points (Hk, Wk, 2), at least float32.
    """

    def __init__(
        self,
        channels: int,
        groups: int,
        kernel_size: int,
        stride: int,
        *,
        offset_range_factor: float | None,
        geometry: str,
        offsets: bool = True,
    ) -> None:
        super().__init__()
        self.groups = groups
        self.offsets = offsets
        limited = offset_range_factor is not None and offset_range_factor > 0
        self.offset_range_factor = offset_range_factor if limited else None
        self.geometry = geometry
        padding = 0 if geometry == "dat++" and kernel_size == stride else kernel_size // 2
        self.conv = nn.Conv2d(channels, channels, kernel_size, stride, padding, groups=channels)
        self.norm = nn.LayerNorm(channels)
        self.act = nn.GELU()
        self.proj = nn.Linear(channels, 2, bias=False)
        if not offsets:
            self.requires_grad_(False)

    def forward(self, queries: Tensor) -> tuple[Tensor, Tensor]:
        Hk, Wk = self.key_size(queries.shape[1], queries.shape[2])
        reference = reference_grid(Hk, Wk, self.geometry, queries)  # step 4: (Hk, Wk, 2)
        if self.offsets:
            offsets = self.convolve(queries)  # step 2
            offsets = rearrange(offsets, "b h w (g c) -> b h w g c", g=self.groups)
            offsets = self.proj(self.act(self.norm(offsets)))
            offsets = to_float32(rearrange(offsets, "b h w g yx -> b g h w yx"))
            if self.offset_range_factor is not None:
                offsets = limit_offsets(offsets, self.offset_range_factor, self.geometry)  # step 3
            positions = reference + offsets  # step 5
        else:
            positions = reference.expand(queries.shape[0], self.groups, Hk, Wk, 2)
        if self.offset_range_factor is None:
            positions = torch.tanh(positions) if self.geometry == "cvpr" else positions.clamp(-1, 1)
        return positions, reference

    def key_size(self, H: int, W: int) -> tuple[int, int]:
        """(Hk, Wk) for a map of H x W queries."""
        kernel, stride, padding = self.conv.kernel_size[0], self.conv.stride[0], self.conv.padding[0]
        return conv_size(H, kernel, stride, padding), conv_size(W, kernel, stride, padding)

    def convolve(self, queries: Tensor) -> Tensor:
        """Depthwise convolution of step 2 with the same kernels for all groups, (B, H, W, C) -> (B, Hk, Wk, C)."""
        conv = self.conv
        weight, bias = conv.weight.repeat(self.groups, 1, 1, 1), conv.bias.repeat(self.groups)
        x = rearrange(queries, "b h w c -> b c h w")
        x = F.conv2d(x, weight, bias, conv.stride, conv.padding, groups=self.groups * conv.groups)
        return rearrange(x, "b c h w -> b h w c")


class TableBias(nn.Module):
    """Position bias "table" (CVPR eq. 6): a table sampled at half the displacement of query and key.

    Displacements are normalized coordinates, so a table (M, 2H-1, 2W-1) for a map of `size` = (H, W) is valid for maps
    of any size.

    Shape: positions (B, G, Hk, Wk, 2) -> bias (B, M, H*W, keys), for a map of H x W queries.
    """

    def __init__(self, num_heads: int, groups: int, size: tuple[int, int], geometry: str) -> None:
        super().__init__()
        self.groups = groups
        self.geometry = geometry
        self.table = nn.Parameter(torch.empty(num_heads, 2 * size[0] - 1, 2 * size[1] - 1))
        nn.init.trunc_normal_(self.table, std=0.01)

    def forward(self, positions: Tensor, H: int, W: int) -> Tensor:
        return table_bias(self.table, positions, H, W, geometry=self.geometry)


class FixedBias(nn.Module):
    """Position bias "fixed": a learned number for each query and key, independent of the offsets.

    A map of another size gets the table (M, H*W, Hk*Wk) resized bicubically.

    Shape: positions (B, G, Hk, Wk, 2) -> bias (1, M, H*W, keys), for a map of H x W queries.
    """

    def __init__(self, num_heads: int, size: tuple[int, int], key_size: tuple[int, int]) -> None:
        super().__init__()
        self.size = size
        self.key_size = key_size
        self.table = nn.Parameter(torch.empty(num_heads, size[0] * size[1], key_size[0] * key_size[1]))
        nn.init.trunc_normal_(self.table, std=0.01)

    def forward(self, positions: Tensor, H: int, W: int) -> Tensor:
        sizes = (*self.size, *self.key_size)
        return resize_fixed_table(self.table, sizes, (H, W, positions.shape[2], positions.shape[3])).unsqueeze(0)


class LogCPB(nn.Module):
    """Position bias "log_cpb" (DAT++, after Swin V2): an MLP of the log-spaced displacement.

    Linear 2->32, ReLU, Linear 32->M/G of sign(d) log2(|d| + 1) / 3, where d = 4 (query position - key position). Groups
    share the weights.

    Shape: positions (B, G, Hk, Wk, 2) -> bias (B, M, H*W, keys), for a map of H x W queries.
    """

    def __init__(self, num_heads: int, groups: int, geometry: str) -> None:
        super().__init__()
        self.geometry = geometry
        self.fc1 = nn.Linear(2, 32)
        self.fc2 = nn.Linear(32, num_heads // groups, bias=False)

    def forward(self, positions: Tensor, H: int, W: int) -> Tensor:
        d = 4 * displacements(positions, H, W, self.geometry)
        d = torch.sign(d) * torch.log2(d.abs() + 1) / 3
        bias = self.fc2(F.relu(self.fc1(d.to(self.fc1.weight.dtype))))  # (B, G, H*W, keys, M / G)
        return rearrange(bias, "b g i j m -> b (g m) i j")


@torch.fx.wrap
def conv_size(size: int, kernel: int, stride: int, padding: int) -> int:
    """Size of a convolution's output along an axis, at least 1."""
    return max((size + 2 * padding - kernel) // stride + 1, 1)


@torch.fx.wrap
def to_float32(x: Tensor) -> Tensor:
    """`x` in at least float32: positions in bfloat16 would be off by whole pixels on a large map."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


@torch.fx.wrap
def limit_offsets(offsets: Tensor, factor: float, geometry: str) -> Tensor:
    """Step 3: tanh(offset) * factor in half cells of the reference grid. Shape: (B, G, Hk, Wk, 2), the same."""
    Hk, Wk = offsets.shape[2:4]
    cells_y, cells_x = (Hk, Wk) if geometry == "cvpr" else (max(Hk - 1, 1), max(Wk - 1, 1))
    dy, dx = torch.tanh(offsets).unbind(-1)
    # Products with Python numbers: creating a tensor of two numbers would synchronize with the device.
    return torch.stack((dy * (factor / cells_y), dx * (factor / cells_x)), dim=-1)


def reference_points(size: int, geometry: str, like: Tensor) -> Tensor:
    """Step 4 along one axis: (size,) coordinates of uniform points.

    The last DAT++ point is at 1 + 1 / (size - 1), outside of the map; a single one is at the CVPR position.
    """
    points = torch.arange(size, dtype=like.dtype, device=like.device) + 0.5
    return 2 * points / (size if geometry == "cvpr" else max(size - 1, 1)) - 1


def query_points(size: int, geometry: str, like: Tensor) -> Tensor:
    """Step 8 along one axis: (size,) coordinates of the queries, for the bias only. A single query is at 0."""
    if geometry == "cvpr" or size == 1:
        return reference_points(size, "cvpr", like)
    return 2 * torch.arange(size, dtype=like.dtype, device=like.device) / (size - 1) - 1


@torch.fx.wrap
def reference_grid(Hk: int, Wk: int, geometry: str, like: Tensor) -> Tensor:
    """Step 4: (Hk, Wk, 2) reference points on the device of `like`, at least float32."""
    like = to_float32(like.new_empty(0))
    y, x = reference_points(Hk, geometry, like), reference_points(Wk, geometry, like)
    return torch.stack(torch.meshgrid(y, x, indexing="ij"), dim=-1)


@torch.fx.wrap
def displacements(positions: Tensor, H: int, W: int, geometry: str) -> Tensor:
    """Query minus key position, (B, G, H*W, keys, 2), in [-2, 2] for keys inside the map."""
    y, x = query_points(H, geometry, positions), query_points(W, geometry, positions)
    queries = torch.stack(torch.meshgrid(y, x, indexing="ij"), dim=-1)
    return rearrange(queries, "h w yx -> (h w) 1 yx") - rearrange(positions, "b g h w yx -> b g 1 (h w) yx")


@torch.fx.wrap
def sample_bilinear(x: Tensor, positions: Tensor) -> Tensor:
    """Step 6: channels of each group at its positions, bilinear, zeros outside the map.

    Shape: x (B, H, W, C), positions (B, G, Hk, Wk, 2) -> (B, Hk*Wk, C), in x's dtype.
    """
    G = positions.shape[1]
    groups = rearrange(x, "b h w (g c) -> (b g) c h w", g=G).to(positions.dtype)
    sampled = grid_sample(groups, rearrange(positions, "b g h w yx -> (b g) h w yx"))
    return rearrange(sampled, "(b g) c h w -> b (h w) (g c)", g=G).to(x.dtype)


@torch.fx.wrap
def average_pool(x: Tensor, positions: Tensor) -> Tensor:
    """DAT++ without offsets: averages of (B, H, W, C) over Hk x Wk cells, (B, Hk*Wk, C)."""
    x = F.adaptive_avg_pool2d(rearrange(x, "b h w c -> b c h w"), positions.shape[2:4])
    return rearrange(x, "b c h w -> b (h w) c")


@torch.fx.wrap
def table_bias(table: Tensor, positions: Tensor, H: int, W: int, *, geometry: str) -> Tensor:
    """A table (M, h, w) sampled bilinearly at half the displacements, zeros outside: (B, M, H*W, keys)."""
    B, G = positions.shape[:2]
    tables = repeat(table.to(positions.dtype), "(g m) h w -> (b g) m h w", b=B, g=G)
    halves = rearrange(displacements(positions, H, W, geometry) / 2, "b g i j yx -> (b g) i j yx")
    return rearrange(grid_sample(tables, halves), "(b g) m i j -> b (g m) i j", g=G)


def grid_sample(x: Tensor, positions: Tensor) -> Tensor:
    """torch's grid_sample with corners aligned, zeros outside, for positions as (y, x).

    Calls torch's own kernel on every device. F.grid_sample calls cuDNN's on CUDA, which torch.compile cannot trace.

    Shape: x (N, C, H, W), positions (N, h, w, 2) -> (N, C, h, w).
    """
    bilinear, zeros, align_corners = 0, 0, True
    return torch.grid_sampler_2d(x, positions.flip(-1), bilinear, zeros, align_corners)


@torch.fx.wrap
def resize_fixed_table(table: Tensor, sizes: tuple[int, ...], new_sizes: tuple[int, ...]) -> Tensor:
    """(M, H*W, Hk*Wk) resized bicubically along the keys, then along the queries.

    Args:
        sizes, new_sizes: (H, W, Hk, Wk).
    """
    (H, W, Hk, Wk), size, key_size = sizes, tuple(new_sizes[:2]), tuple(new_sizes[2:])
    if (Hk, Wk) != key_size:
        table = rearrange(table, "m i (h w) -> m i h w", h=Hk)
        table = F.interpolate(table, size=key_size, mode="bicubic", align_corners=False).flatten(2)
    if size != (H, W):
        table = rearrange(table, "m (h w) j -> m j h w", h=H)
        table = F.interpolate(table, size=size, mode="bicubic", align_corners=False)
        table = rearrange(table, "m j h w -> m (h w) j")
    return table
