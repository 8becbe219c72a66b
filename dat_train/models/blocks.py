"""What a block is made of besides its attention: MLPs, local perception, LayerScale, stem and downsampling.

The residual stream is (B, H, W, C), contiguous; only depthwise convolutions take a channels-first view of it.
"""

import torch
from timm.layers import DropPath
from torch import Tensor, nn

from dat_train.models.kernels.choice import has_hooks, implementation
from dat_train.models.kernels.linear import linear
from dat_train.models.kernels.mlp import mlp_in_parts
from dat_train.models.kernels.residual import residual


class Linear(nn.Linear):
    """A linear layer of an attention or an MLP, by the device's kernel."""

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)


def is_bare(layer: nn.Module) -> bool:
    """Whether a linear layer is its product and nothing else: no hooks, no adapter or parametrization in its place.

    Only then may its weights be used without calling it.
    """
    return type(layer) is Linear and not has_hooks(layer)


class ConvNHWC(nn.Conv2d):
    """A convolution on a (B, H, W, C) map through a channels-first view; no copy on the way in or out."""

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x.permute(0, 3, 1, 2), self.weight, self.bias).permute(0, 2, 3, 1)


def depthwise_conv(dim: int) -> ConvNHWC:
    """3x3 depthwise convolution."""
    return ConvNHWC(dim, dim, 3, padding=1, groups=dim)


class Mlp(nn.Module):
    """Linear C -> rC, GELU, Linear rC -> C; with `dwconv` (DAT++) h += DWConv3x3(h) before the GELU."""

    def __init__(self, dim: int, ratio: float, drop: float = 0.0, dwconv: bool = False) -> None:
        super().__init__()
        hidden = int(dim * ratio)
        self.fc1 = Linear(dim, hidden)
        self.dwconv = depthwise_conv(hidden) if dwconv else None
        self.act = nn.GELU()
        self.fc2 = Linear(hidden, dim)
        self.drop = nn.Dropout(drop)

    def forward(self, x: Tensor) -> Tensor:
        if not torch.jit.is_scripting():
            plain = self.dwconv is None and not (self.training and self.drop.p > 0)
            if plain and implementation(x) == "parts" and is_bare(self.fc1) and is_bare(self.fc2):
                return mlp_in_parts(x, self.fc1.weight, self.fc1.bias, self.fc2.weight, self.fc2.bias)
        x = self.fc1(x)
        if self.dwconv is not None:
            x = x + self.dwconv(x)
        return self.drop(self.fc2(self.drop(self.act(x))))


class LayerScale(nn.Module):
    """Multiplies a branch by a learned vector that starts at `value`."""

    def __init__(self, dim: int, value: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((dim,), value))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class Block(nn.Module):
    """x += DropPath(Attn(LN(x))); x += DropPath(MLP(LN(x))), after x += DWConv3x3(x) where DAT++ has it."""

    def __init__(
        self,
        dim: int,
        attn: nn.Module,
        mlp: nn.Module,
        drop_path: float = 0.0,
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
        if torch.jit.is_scripting():
            x = x + self.drop_path1(self.ls1(self.attn(self.norm1(x))))
            return x + self.drop_path2(self.ls2(self.mlp(self.norm2(x))))
        else:
            x = residual(x, self.norm1, self.attn, self.ls1, drop_path=self.drop_path1)
            return residual(x, self.norm2, self.mlp, self.ls2, drop_path=self.drop_path2)


class PatchStem(nn.Module):
    """CVPR stem: conv p x p stride p, LN. (B, in_chans, H, W) -> (B, H/p, W/p, C)."""

    def __init__(self, in_chans: int, dim: int, patch_size: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_chans, dim, patch_size, patch_size)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(patch_conv(x.permute(0, 2, 3, 1), self.conv.weight, self.conv.bias))


def patch_conv(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A convolution whose stride is its kernel's side p, as one matrix product over patches.

    Shape: x (B, H, W, C), weight (C', C, p, p) -> (B, H // p, W // p, C'), contiguous.
    """
    B, H, W, C = x.shape
    p = weight.shape[2]
    rows, columns = H // p, W // p
    x = x[:, : rows * p, : columns * p].reshape(B, rows, p, columns, p, C).transpose(2, 3)
    x = x.reshape(B, rows, columns, p * p * C)
    return linear(x, weight.permute(0, 2, 3, 1).reshape(weight.shape[0], -1), bias)


class ConvStem(nn.Module):
    """DAT++ stem: two conv 3x3 stride 2 with LN, GELU between. (B, in_chans, H, W) -> (B, H/4, W/4, C)."""

    def __init__(self, in_chans: int, dim: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_chans, dim // 2, 3, 2, 1)
        self.norm1 = nn.LayerNorm(dim // 2)
        self.act = nn.GELU()
        self.conv2 = ConvNHWC(dim // 2, dim, 3, 2, 1)
        self.norm2 = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.norm1(self.conv(x).permute(0, 2, 3, 1)))
        return self.norm2(self.conv2(x).contiguous())


class Downsample(nn.Module):
    """Between stages: conv stride 2 without bias (2x2 in CVPR, 3x3 in DAT++), LN. (B, H, W, C) -> (B, H/2, W/2, C')."""

    def __init__(self, dim: int, out_dim: int, kernel_size: int) -> None:
        super().__init__()
        self.conv = ConvNHWC(dim, out_dim, kernel_size, 2, (kernel_size - 1) // 2, bias=False)
        self.norm = nn.LayerNorm(out_dim)

    def forward(self, x: Tensor) -> Tensor:
        if self.conv.kernel_size == self.conv.stride:
            return self.norm(patch_conv(x, self.conv.weight, None))
        return self.norm(self.conv(x).contiguous())
