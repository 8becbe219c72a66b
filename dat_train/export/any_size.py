"""Layers without control flow on the size of a feature map, for graphs that take images of any height and width.

Each is a subclass of the original layer with the same parameters, as in models/kernels/. Results agree up to rounding.
"""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from dat_train.models.dat import DAT
from dat_train.models.neighborhood import TILE, NeighborhoodAttention, tile_bias
from dat_train.models.window import WindowAttention, window_attention, window_mask

SMALLEST_SIDE = 64  # minimum image side, pixels: the maps of the last stage then have at least two rows and columns


def smallest_side(model: nn.Module) -> int:
    """Minimum image side of a segmentation graph, pixels: its shifted maps must be larger than a window."""
    sides = [SMALLEST_SIDE]
    for backbone in filter(lambda module: isinstance(module, DAT), model.modules()):
        for stage, info in zip(backbone.stages, backbone.feature_info, strict=False):
            shifted = (module for module in stage.modules() if isinstance(module, WindowAttention) and module.shift)
            sides += [(module.window_size + 1) * info["reduction"] for module in shifted]
    return max(sides)


def with_any_size(model: nn.Module) -> nn.Module:
    """Replace the layers of `model` that branch on the size of their map, in place, and return it."""
    for module in model.modules():
        if type(module) in FORMS:
            module.__class__ = FORMS[type(module)]
    return model


class AnySizeNeighborhoodAttention(NeighborhoodAttention):
    """Neighborhood attention in tiles of one fixed side, with windows of one fixed size.

    Windows that reach beyond the map repeat its last positions, which are masked.
    """

    def forward(self, x: Tensor) -> Tensor:
        H, W = x.shape[1], x.shape[2]
        missing = [torch.sym_max(self.kernel_size - side, 0) for side in (W, H)]
        x = F.pad(x, (0, 0, 0, missing[0], 0, missing[1]))
        qkv = rearrange(self.qkv(x), "b h w (qkv m d) -> b h w qkv m d", qkv=3, m=self.num_heads)
        x = rearrange(self.attend(qkv), "b h w m d -> b h w (m d)")
        return self.proj_drop(self.proj(_cropped(x, H, W)))

    def attend(self, qkv: Tensor) -> Tensor:
        H, W, M = qkv.shape[1], qkv.shape[2], qkv.shape[4]
        ny, nx = (H + TILE - 1) // TILE, (W + TILE - 1) // TILE
        rows, bias_rows = _key_windows(H, self.kernel_size, qkv.device)
        columns, bias_columns = _key_windows(W, self.kernel_size, qkv.device)
        q = F.pad(qkv[:, :, :, 0], (0, 0, 0, 0, 0, nx * TILE - W, 0, ny * TILE - H))
        q = rearrange(q, "b (ny ty) (nx tx) m d -> b (ny nx m) (ty tx) d", ty=TILE, tx=TILE)
        kv = qkv[:, :, :, 1:].index_select(1, rows).index_select(2, columns)
        w = TILE + self.kernel_size - 1
        k, v = rearrange(kv, "b (ny wy) (nx wx) kv m d -> kv b (ny nx m) (wy wx) d", wy=w, wx=w)
        bias = tile_bias(self.rpb, bias_rows, bias_columns).to(q.dtype)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        out = rearrange(out, "b (ny nx m) (ty tx) d -> b (ny ty) (nx tx) m d", ny=ny, nx=nx, m=M, ty=TILE)
        return _cropped(out, H, W)


def _cropped(x: Tensor, height: int, width: int) -> Tensor:
    """First rows and columns of a map (B, H, W, ...). A slice has a minimum as its size, which adds a guard."""
    rows, columns = (torch.arange(side, device=x.device) for side in (height, width))
    return x.index_select(1, rows).index_select(2, columns)


def _key_windows(size: int, k: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """`key_windows` of models/neighborhood.py for tiles of side TILE and windows of TILE + k - 1 keys."""
    tiles, w = (size + TILE - 1) // TILE, TILE + k - 1
    query = torch.arange(tiles * TILE, device=device).clamp(max=size - 1).view(tiles, TILE)
    first = (query - k // 2).clamp(min=0).clamp(max=size - k)
    key = first[:, :1] + torch.arange(w, device=device)
    neighbor = (key[:, None] >= first[..., None]) & (key[:, None] < first[..., None] + k)
    relative = key[:, None] - query[..., None] + k - 1
    entry = torch.arange(2 * k - 1, device=device)
    return key.clamp(max=size - 1).flatten(), (relative[..., None] == entry) & neighbor[..., None]


class AnySizeWindowAttention(WindowAttention):
    """Window attention that pads, masks and shifts every map. A shifted map must be larger than a window."""

    def forward(self, x: Tensor) -> Tensor:
        B, H, W, C = x.shape
        w, shift = self.window_size, self.shift
        rows, columns = (H + w - 1) // w, (W + w - 1) // w
        x = F.pad(x, (0, 0, 0, columns * w - W, 0, rows * w - H))
        if shift:
            x = torch.roll(x, (-shift, -shift), (1, 2))
        x = _exchanged(x.view(B, rows, w, columns, w, C)).view(B, rows * columns, w * w, C)
        x = window_attention(self.qkv(x), self.position_bias(H, W, (shift, shift)), 0.0)
        x = _exchanged(x.view(B, rows, columns, w, w, C)).view(B, rows * w, columns * w, C)
        if shift:
            x = torch.roll(x, (shift, shift), (1, 2))
        return self.proj_drop(self.proj(_cropped(x, H, W)))

    def position_bias(self, H: int, W: int, shift: tuple[int, int]) -> Tensor:
        bias = F.embedding(self.relative_position_index, self.relative_position_bias_table)
        return window_mask(bias, self.window_size, (H, W), shift)[:, None] + rearrange(bias, "i j m -> m i j")


def _exchanged(x: Tensor) -> Tensor:
    """Copy of (B, rows, a, b, w, C) as (B, rows, b, a, w, C). A reshape compares strides, which adds a guard."""
    return x.permute(0, 1, 3, 2, 4, 5).clone(memory_format=torch.contiguous_format)


class AnySizeAdaptiveAvgPool2d(nn.AdaptiveAvgPool2d):
    """Adaptive average pooling to a square map as a product with weight matrices."""

    def forward(self, x: Tensor) -> Tensor:
        rows, columns = (_cell_weights(side, self.output_size, x) for side in x.shape[-2:])
        return rows @ x @ columns.T


def _cell_weights(size: int, cells: int, like: Tensor) -> Tensor:
    """(cells, size) weights: 1 / length in cell i, floor(i size / cells) to ceil((i + 1) size / cells), else 0."""
    cell, position = (torch.arange(n, device=like.device) for n in (cells, size))
    first, end = cell * size // cells, ((cell + 1) * size + cells - 1) // cells
    inside = (position >= first[:, None]) & (position < end[:, None])
    return inside.to(like.dtype) / (end - first)[:, None].to(like.dtype)


FORMS = {
    NeighborhoodAttention: AnySizeNeighborhoodAttention,
    WindowAttention: AnySizeWindowAttention,
    nn.AdaptiveAvgPool2d: AnySizeAdaptiveAvgPool2d,
}
