"""The attention module alone: forward, backward and memory, over map sizes and implementations."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch

from dat_train.benchmark.clock import interleaved
from dat_train.benchmark.peak_memory import peak_memory
from dat_train.benchmark.result import Result
from dat_train.errors import UserError
from dat_train.models import DeformableAttention
from dat_train.models.kernels.choice import using


@dataclass(frozen=True)
class Shape:
    """A layer's sizes: channels, heads, groups, offset kernel, queries per key along an axis."""

    dim: int
    heads: int
    groups: int
    kernel_size: int
    stride: int


# By the side of the map. 7 and 14 are DAT-T's stages 4 and 3; 28 and 56 its first two, whose blocks are windows in
# DAT-T, with as many keys as stage 3 has.
SHAPES = {
    7: Shape(768, 24, 6, 3, 1),
    14: Shape(384, 12, 3, 5, 1),
    28: Shape(192, 6, 1, 7, 2),
    56: Shape(96, 3, 1, 9, 4),
}


def implementations(device: torch.device) -> list[str]:
    """What attention can be computed by on a device."""
    return {"cpu": ["plain", "parts"], "cuda": ["plain", "triton", "flex"]}.get(device.type, ["plain"])


def benchmark_attention(
    size: int, *, batch_size: int, device: torch.device, dtype: torch.dtype, repeats: int, warmup: int
) -> list[Result]:
    """Deformable attention on maps of `size` x `size` by every implementation, in turns.

    Raises:
        UserError: a size that is not in SHAPES.
    """
    if size not in SHAPES:
        raise UserError(f"attention on maps of {size} is not measured; sizes are {', '.join(map(str, SHAPES))}")
    shape = SHAPES[size]
    torch.manual_seed(0)
    layer = DeformableAttention(
        shape.dim, shape.heads, shape.groups, (size, size), kernel_size=shape.kernel_size, stride=shape.stride
    ).to(device, dtype)
    x = torch.randn(batch_size, size, size, shape.dim, device=device, dtype=dtype, requires_grad=True)
    upstream = torch.randn_like(x)

    def forward(name: str) -> None:
        with using(name), torch.no_grad():
            layer(x)

    def both(name: str) -> None:
        with using(name):
            layer(x).backward(upstream)
        x.grad = None
        layer.zero_grad()

    results = []
    for mode, run in (("forward", forward), ("forward and backward", both)):
        tasks = {name: (lambda run=run, name=name: run(name)) for name in implementations(device)}
        tasks = {name: task for name, task in tasks.items() if name == "plain" or _works(task, f"{name} {size}x{size}")}
        seconds = interleaved(tasks, repeats=repeats, warmup=warmup, device=device)
        for name, task in tasks.items():
            memory = peak_memory(task, [*layer.parameters(), x, upstream], device)
            results.append(Result(f"{name} {size}x{size}", mode, False, batch_size, seconds[name], memory))
    return results


def _works(task: Callable[[], None], name: str) -> bool:
    """Whether a kernel compiles and runs here; the others are measured without it."""
    try:
        task()
    except Exception as error:  # whatever a compiler may raise
        reason = str(error).strip().partition("\n")[0]
        warnings.warn(f"{name} is left out: {type(error).__name__}: {reason}", stacklevel=2)
        return False
    return True


def baseline_name(size: int) -> str:
    """The result that those of a size are compared with."""
    return f"plain {size}x{size}"
