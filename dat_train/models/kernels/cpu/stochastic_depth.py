"""Blocks whose branches skip the images that stochastic depth drops."""

import torch
from timm.layers import DropPath
from torch import Tensor, nn

from dat_train.models.blocks import Block


class CPUBlock(Block):
    """Block that computes a branch only for the images that DropPath keeps; dropout inside draws only for these.

    Modules inside a branch, and hooks on them, receive fewer images than the batch has.
    """

    def forward(self, x: Tensor) -> Tensor:
        if self.lpu is not None:
            x = x + self.lpu(x)
        x = residual(x, (self.norm1, self.attn, self.ls1), self.drop_path1)
        return residual(x, (self.norm2, self.mlp, self.ls2), self.drop_path2)


def residual(x: Tensor, branch: tuple[nn.Module, ...], drop_path: nn.Module) -> Tensor:
    """x + drop_path(branch(x)), with the random numbers of DropPath.

    Args:
        x: (B, ...).
        branch: modules that are called one after the other.
        drop_path: DropPath or identity.

    Returns:
        (B, ...).
    """
    dropping = isinstance(drop_path, DropPath) and drop_path.training and drop_path.drop_prob > 0
    if not dropping or type(x) is not Tensor:  # fake tensors of the memory estimate keep all images
        return x + drop_path(_call(branch, x))
    kept, factor = _kept_images(x, drop_path)
    out = _call(branch, x if kept is None else x.index_select(0, kept))
    if kept is None:
        return torch.add(x, out, alpha=factor)
    dtype = torch.promote_types(x.dtype, out.dtype)
    return x.to(dtype).index_add(0, kept, out.to(dtype), alpha=factor)


def _call(layers: tuple[nn.Module, ...], x: Tensor) -> Tensor:
    for layer in layers:
        x = layer(x)
    return x


def _kept_images(x: Tensor, drop_path: DropPath) -> tuple[Tensor | None, float]:
    """Indices of the images that DropPath keeps, None for all, and the factor it multiplies them by.

    If every image is dropped: the first with factor 0, so that each weight gets a gradient in every step.
    """
    factors = drop_path(x.new_ones(len(x), *[1] * (x.dim() - 1))).flatten()
    kept = factors.nonzero().flatten()
    if len(kept) == 0:
        return kept.new_zeros(1), 0.0
    return kept if len(kept) < len(x) else None, factors[kept[0]].item()
