"""Parts of a block other than its attention: MLP, LayerScale, stem, downsampling (docs/model.md, "Pyramid").

The residual stream is a (B, H, W, C) tensor, contiguous. Convolutions take a channels-first view of it.
"""

import torch
from einops import rearrange
from timm.layers import DropPath, LayerScale
from torch import Tensor, nn

torch.fx.wrap("rearrange")  # symbolic tracing records the call


class ConvNHWC(nn.Conv2d):
    """Convolution of a (B, H, W, C) map through a channels-first view; no copy of the input or the output."""

    def forward(self, x: Tensor) -> Tensor:
        x = self._conv_forward(rearrange(x, "b h w c -> b c h w"), self.weight, self.bias)
        return rearrange(x, "b c h w -> b h w c")


def depthwise_conv(dim: int) -> ConvNHWC:
    """3x3 depthwise convolution of a (B, H, W, dim) map."""
    return ConvNHWC(dim, dim, 3, padding=1, groups=dim)


class Mlp(nn.Module):
    """Linear C -> rC, GELU, Linear rC -> C. DAT++ adds h += DWConv3x3(h) before the GELU.

    Args:
        dim: channels C.
        ratio: width of the hidden layer relative to C.
        drop: dropout probability after the GELU and after the second linear layer.
        dwconv: with the depthwise convolution of DAT++.

    Shape: (B, H, W, C) -> (B, H, W, C).
    """

    def __init__(self, dim: int, ratio: float, drop: float = 0.0, dwconv: bool = False) -> None:
        super().__init__()
        hidden = int(dim * ratio)
        self.fc1 = nn.Linear(dim, hidden)
        self.dwconv = depthwise_conv(hidden) if dwconv else None
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden, dim)
        self.drop = nn.Dropout(drop)

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc1(x)
        if self.dwconv is not None:
            x = x + self.dwconv(x)
        x = self.drop(self.act(x))
        return self.drop(self.fc2(x))


class Block(nn.Module):
    """x += DropPath(Attn(LN(x))); x += DropPath(MLP(LN(x))). DAT++ starts with x += DWConv3x3(x).

    Args:
        dim: channels C.
        attn: attention, (B, H, W, C) -> (B, H, W, C).
        mlp: MLP, (B, H, W, C) -> (B, H, W, C).
        drop_path: stochastic depth rate of both branches.
        layer_scale: initial LayerScale value of both branches. None: no LayerScale.
        local_perception: with the depthwise convolution of DAT++ (local perception unit).

    Shape: (B, H, W, C) -> (B, H, W, C).
    """

    def __init__(
        self,
        dim: int,
        attn: nn.Module,
        mlp: nn.Module,
        drop_path: float = 0.0,
        *,
        layer_scale: float | None = None,
        local_perception: bool = False,
    ) -> None:
        super().__init__()
        self.lpu = depthwise_conv(dim) if local_perception else None
        self.norm1 = nn.LayerNorm(dim)
        self.attn = attn
        self.ls1 = LayerScale(dim, layer_scale) if layer_scale is not None else nn.Identity()
        self.drop_path1 = DropPath(drop_path) if drop_path > 0 else nn.Identity()
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = mlp
        self.ls2 = LayerScale(dim, layer_scale) if layer_scale is not None else nn.Identity()
        self.drop_path2 = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        if self.lpu is not None:
            x = x + self.lpu(x)
        x = x + self.drop_path1(self.ls1(self.attn(self.norm1(x))))
        return x + self.drop_path2(self.ls2(self.mlp(self.norm2(x))))


class PatchStem(nn.Module):
    """CVPR stem: conv p x p stride p, LN. (B, in_chans, H, W) -> (B, H/p, W/p, C)."""

    def __init__(self, in_chans: int, dim: int, patch_size: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_chans, dim, patch_size, patch_size)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(rearrange(self.conv(x), "b c h w -> b h w c").contiguous())


class ConvStem(nn.Module):
    """DAT++ stem: conv 3x3 stride 2, LN, GELU, conv 3x3 stride 2, LN. (B, in_chans, H, W) -> (B, H/4, W/4, C)."""

    def __init__(self, in_chans: int, dim: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_chans, dim // 2, 3, 2, 1)
        self.norm1 = nn.LayerNorm(dim // 2)
        self.act = nn.GELU()
        self.conv2 = ConvNHWC(dim // 2, dim, 3, 2, 1)
        self.norm2 = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        x = rearrange(self.conv(x), "b c h w -> b h w c")
        x = self.act(self.norm1(x))
        return self.norm2(self.conv2(x).contiguous())


class Downsample(nn.Module):
    """Conv stride 2 without bias (2x2 in CVPR, 3x3 in DAT++), LN. (B, H, W, C) -> (B, H/2, W/2, C')."""

    def __init__(self, dim: int, out_dim: int, kernel_size: int) -> None:
        super().__init__()
        self.conv = ConvNHWC(dim, out_dim, kernel_size, 2, (kernel_size - 1) // 2, bias=False)
        self.norm = nn.LayerNorm(out_dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x).contiguous())
