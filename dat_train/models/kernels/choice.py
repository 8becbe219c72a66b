"""Which implementation computes attention and MLPs: by device, or as said."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import get_proxy_mode

from dat_train.errors import UserError

IMPLEMENTATIONS = ("plain", "parts", "triton", "flex")
_said: str | None = None


def implementation(x: Tensor) -> str:
    """The implementation for work on `x`.

    "parts" on a CPU, where work cut to the cache's size pays (parts.py); "plain" on other devices, and wherever a
    compiler or exporter reads along, which can make something of ordinary operators alone.
    """
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or get_proxy_mode() is not None:
        return "plain"
    if _said is not None:
        return _said
    return "parts" if x.device.type == "cpu" else "plain"


def must_be_deterministic(x: Tensor) -> bool:
    """Whether work on `x` has to avoid what torch has no deterministic CUDA kernel for: the gradient of grid_sample."""
    return x.is_cuda and torch.are_deterministic_algorithms_enabled()


def has_hooks(module: nn.Module) -> bool:
    """Whether somebody looks at what this module, or one inside it, is given or computes."""
    return torch.nn.modules.module._has_any_global_hook() or any(
        m._forward_hooks or m._forward_pre_hooks or m._backward_hooks or m._backward_pre_hooks for m in module.modules()
    )


@contextmanager
def using(name: str) -> Iterator[None]:
    """Compute eager models by one implementation, whatever the device, to compare them."""
    global _said
    if name not in IMPLEMENTATIONS:
        raise UserError(f"{name!r} is no implementation of attention; one of {', '.join(IMPLEMENTATIONS)}")
    before, _said = _said, name
    try:
        yield
    finally:
        _said = before
