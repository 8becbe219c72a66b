"""Speed and memory of the deformable attention module, by map size and kernels."""

import copy
import warnings
from dataclasses import dataclass

import torch

from dat_train.benchmark.clock import interleaved
from dat_train.benchmark.peak_memory import peak_memory
from dat_train.benchmark.result import Result
from dat_train.errors import UserError
from dat_train.models import DeformableAttention
from dat_train.models.kernels import accelerate


@dataclass(frozen=True)
class Shape:
    """Sizes of a layer: channels, heads, groups, kernel and stride of the offset network."""

    dim: int
    num_heads: int
    groups: int
    kernel_size: int
    stride: int


# Keys are the sides of the maps. 7 and 14 are stages 4 and 3 of DAT-T. 28 and 56 are its first two stages, which have
# window attention in DAT-T; here they have as many keys as stage 3.
SHAPES = {
    7: Shape(768, 24, 6, 3, 1),
    14: Shape(384, 12, 3, 5, 1),
    28: Shape(192, 6, 1, 7, 2),
    56: Shape(96, 3, 1, 9, 4),
}


def kernels_of(device: torch.device) -> list[str]:
    """Values of kernels=... that differ on a device."""
    return {"cpu": ["plain", "auto"], "cuda": ["plain", "triton", "flex"]}.get(device.type, ["plain"])


def benchmark_attention(
    size: int, *, batch_size: int, device: torch.device, dtype: torch.dtype, repeats: int, warmup: int
) -> list[Result]:
    """Measure deformable attention on maps of `size` x `size` with all kernels of the device, interleaved.

    Raises:
        UserError: a size that is not in SHAPES.
    """
    if size not in SHAPES:
        raise UserError(f"attention on maps of {size} is not measured; sizes are {', '.join(map(str, SHAPES))}")
    shape = SHAPES[size]
    torch.manual_seed(0)
    layer = DeformableAttention(
        shape.dim, shape.num_heads, shape.groups, (size, size), kernel_size=shape.kernel_size, stride=shape.stride
    ).to(device, dtype)
    x = torch.randn(batch_size, size, size, shape.dim, device=device, dtype=dtype, requires_grad=True)
    layers = _layers(layer, x)
    upstream = torch.randn_like(x)

    def forward(kernels: str) -> None:
        with torch.no_grad():
            layers[kernels](x)

    def forward_and_backward(kernels: str) -> None:
        layers[kernels](x).backward(upstream)
        x.grad = None
        layers[kernels].zero_grad()

    results = []
    for mode, run in (("forward", forward), ("forward and backward", forward_and_backward)):
        tasks = {name: (lambda run=run, name=name: run(name)) for name in layers}
        seconds = interleaved(tasks, repeats=repeats, warmup=warmup, device=device)
        for name, task in tasks.items():
            memory = peak_memory(task, [*layers[name].parameters(), x, upstream], device)
            results.append(
                Result(
                    f"{name} {size}x{size}",
                    mode,
                    compiled=False,
                    items=batch_size,
                    seconds=seconds[name],
                    memory=memory,
                )
            )
    return results


def _layers(layer: DeformableAttention, x: torch.Tensor) -> dict[str, DeformableAttention]:
    """Layer by each value of kernels=... that works for x, (B, H, W, C), on its device; warns about the others."""
    layers = {}
    for kernels in kernels_of(x.device):
        try:
            accelerated = accelerate(copy.deepcopy(layer), x.device, kernels)
            accelerated(x).sum().backward()
            layers[kernels] = accelerated
        except Exception as error:  # a compiler may raise anything
            if kernels == "plain":
                raise
            reason = str(error).strip().partition("\n")[0]
            warnings.warn(f"kernels={kernels} is left out: {type(error).__name__}: {reason}", stacklevel=3)
    x.grad = None
    return layers


def baseline_name(size: int) -> str:
    """Name of the result that the results of a size are compared with."""
    return f"plain {size}x{size}"
