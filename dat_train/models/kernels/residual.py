"""A residual branch under stochastic depth, on a CPU without the images that are dropped."""

import torch
from timm.layers import DropPath
from torch import Tensor, nn

from dat_train.models.kernels.choice import has_hooks, implementation


def residual(x: Tensor, *layers: nn.Module, drop_path: nn.Module) -> Tensor:
    """x + drop_path(f(x)), f the layers one after the other.

    Eagerly on a CPU, f is computed for the images that DropPath keeps, and dropout inside f draws for these alone. With
    a hook in one of the layers, which would see that, and for tensors without content f is computed for all images.

    Shape: (B, ...) -> (B, ...).
    """
    dropping = isinstance(drop_path, DropPath) and drop_path.training and drop_path.drop_prob > 0
    chosen = dropping and implementation(x) == "parts" and type(x) is Tensor
    if not chosen or any(map(has_hooks, (*layers, drop_path))):
        return x + drop_path(_through(layers, x))
    kept, factor = _survivors(x, drop_path)
    out = _through(layers, x if kept is None else x.index_select(0, kept))
    if kept is None:
        return torch.add(x, out, alpha=factor)
    dtype = torch.promote_types(x.dtype, out.dtype)
    return x.to(dtype).index_add(0, kept, out.to(dtype), alpha=factor)


def _through(layers: tuple[nn.Module, ...], x: Tensor) -> Tensor:
    for layer in layers:
        x = layer(x)
    return x


def _survivors(x: Tensor, drop_path: DropPath) -> tuple[Tensor | None, float]:
    """Images that DropPath keeps, by its own random numbers (None: all), and the factor it gives them.

    Of none, the first with factor 0: each weight gets a gradient in every step.
    """
    factors = drop_path(x.new_ones(len(x), *[1] * (x.dim() - 1))).flatten()
    kept = factors.nonzero().flatten()
    if len(kept) == 0:
        return kept.new_zeros(1), 0.0
    return kept if len(kept) < len(x) else None, factors[kept[0]].item()
