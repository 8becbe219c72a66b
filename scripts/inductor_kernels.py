"""Kernels of a compiled step on a GPU, counted in the code that torch.compile generates for it; needs no GPU.

python scripts/inductor_kernels.py [MODEL ...]

Inductor lowers the plain model in bfloat16 autocast for an H100, whose properties are stated below; nothing is run.
Each kernel has the bytes that it reads and writes and, for matrix products, convolutions and attention, floating-point
operations. Its time is that of its arithmetic at the peak rate or that of its bytes at the bandwidth of memory, the
longer one, for the cards of scripts/roofline.py. Names that are internal to torch are those of torch 2.14.
"""

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from types import SimpleNamespace
from unittest.mock import patch

import timm
import torch
import torch._functorch.config
import torch.nn.functional as F
import triton
from roofline import BATCH, CARDS, SIZE, attention_flops, fused
from torch._dynamo.device_interface import CudaInterface
from torch._inductor import config, scheduler
from torch._inductor.async_compile import AsyncCompile
from torch._inductor.compile_fx import compile_fx, compile_fx_inner
from torch._inductor.graph import GraphLowering
from torch._inductor.ir import MultiOutput
from torch._subclasses.fake_tensor import FakeTensor
from torch.fx.passes.fake_tensor_prop import FakeTensorProp
from torch.utils.flop_counter import register_flop_formula
from triton.backends.compiler import GPUTarget

import dat_train.models  # noqa: F401  registers the models

DEVICE = torch.device("cuda", 0)
OF_TORCH_CUDA = (
    "device_count",
    "current_device",
    "get_device_properties",
    "get_device_capability",
    "is_bf16_supported",
)
H100 = SimpleNamespace(
    name="NVIDIA H100",
    major=9,
    minor=0,
    multi_processor_count=132,
    total_memory=80 << 30,
    warp_size=32,
    regs_per_multiprocessor=65536,
    max_threads_per_multi_processor=2048,
    max_threads_per_block=1024,
    shared_memory_per_block=48 << 10,
    shared_memory_per_block_optin=227 << 10,
    shared_memory_per_multiprocessor=228 << 10,
    L2_cache_size=50 << 20,
    gcnArchName="",
)


class Driver:
    """Triton driver of a GPU that compiles nothing."""

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return DEVICE.index

    def get_active_torch_device(self) -> torch.device:
        return DEVICE


class Lowered(Exception):  # noqa: N818  ends the compilation
    """The code of all graphs has been generated."""


@contextmanager
def compiler_for_h100() -> Iterator[None]:
    """Let torch believe in an H100 while it generates code."""
    replaced = [
        *((CudaInterface, name, staticmethod(value)) for name, value in _interface().items()),
        *((torch.cuda, name, _interface()[name]) for name in OF_TORCH_CUDA),
        (scheduler, "has_triton", lambda *_: True),
        (AsyncCompile, "triton", lambda *_arguments, **_options: None),
        (F, "scaled_dot_product_attention", fused),
    ]
    settings = {
        "force_disable_caches": True,
        "shape_padding": False,  # would be decided by a measurement
        "joint_graph_constant_folding": False,  # would allocate on the device
    }
    triton.runtime.driver.set_active(Driver())
    with ExitStack() as stack:
        for owner, name, value in replaced:
            stack.enter_context(patch.object(owner, name, value, create=True))
        stack.enter_context(config.patch(settings))
        stack.enter_context(torch._functorch.config.patch(force_non_lazy_backward_lowering=True))
        yield


def _interface() -> dict:
    return {
        "is_available": lambda *_: True,
        "device_count": lambda *_: 1,
        "current_device": lambda *_: DEVICE.index,
        "get_device_properties": lambda *_: H100,
        "get_device_capability": lambda *_: (9, 0),
        "get_compute_capability": lambda *_: 90,
        "is_bf16_supported": lambda *_arguments, **_options: True,
        "is_triton_capable": lambda *_: True,
        "raise_if_triton_unavailable": lambda *_: None,
    }


@register_flop_formula(torch.ops.roofline.attention)
def _forward_flops(q: list[int], k: list[int], *_: object, **_options: object) -> int:
    return attention_flops("attention", torch.empty(q, device="meta"), torch.empty(k, device="meta"))


@register_flop_formula(torch.ops.roofline.attention_backward)
def _backward_flops(q: list[int], k: list[int], *_: object, **_options: object) -> int:
    return attention_flops("attention_backward", torch.empty(q, device="meta"), torch.empty(k, device="meta"))


def kernels(name: str, training: bool) -> list[tuple[str, float, float]]:
    """Name, floating-point operations and bytes of each kernel of a compiled step on BATCH images."""
    found: list[tuple[str, float, float]] = []
    graphs = 2 if training else 1  # forward, backward

    def codegen(graph: GraphLowering) -> tuple:
        nonlocal graphs
        code = original(graph)
        found.extend(_counted(graph))
        graphs -= 1
        if not graphs:
            raise Lowered
        return code

    torch._dynamo.reset()
    original = GraphLowering.codegen
    model = timm.create_model(name, drop_path_rate=0.0).train(training)  # random draws would need a device
    backend = partial(compile_fx, inner_compile=_compile_for_gpu)
    with (
        compiler_for_h100(),
        patch.object(GraphLowering, "codegen", codegen),
        torch.set_grad_enabled(training),
        torch.autocast("cpu", torch.bfloat16),
    ):
        try:
            torch.compile(model, backend=backend)(torch.empty(BATCH, 3, SIZE, SIZE))
        except Exception as error:
            if "Lowered" not in f"{type(error).__name__}: {error}":
                raise
    return found


def _compile_for_gpu(graph: torch.fx.GraphModule, inputs: list, **options: object) -> object:
    """Move a graph that was traced on the CPU to the GPU, and compile it."""
    mode = next(value.fake_mode for value in inputs if isinstance(value, FakeTensor))
    with mode:
        inputs = [value.to(DEVICE) if isinstance(value, torch.Tensor) else value for value in inputs]
    for node in graph.graph.nodes:
        if node.target is torch.ops.aten.view.default:  # convolutions have other strides on a GPU
            node.target = torch.ops.aten.reshape.default
        if node.kwargs.get("device") is not None:
            node.kwargs = {**node.kwargs, "device": DEVICE}
    FakeTensorProp(graph, mode).propagate_dont_convert_inputs(*inputs)
    return compile_fx_inner(graph, inputs, **options)


def _counted(graph: GraphLowering) -> Iterator[tuple[str, float, float]]:
    """Kernels of a lowered graph."""
    for node in graph.scheduler.nodes:
        moved = node.get_read_write_buffers_sizes()
        if isinstance(node.node, MultiOutput):  # a part of the result of the kernel before
            moved = node.node.get_numel() * node.node.get_dtype().itemsize
            yield "", 0, float(moved)
        elif node.is_extern():
            operator = getattr(node.node, "op_overload", None) or getattr(node.node, "python_kernel_name", "")
            yield str(operator).rpartition("::")[2], float(node.estimate_flops() or 0), float(moved)
        elif moved:
            yield "fused", 0, float(moved)


def main() -> None:
    for name in sys.argv[1:] or ["swin_tiny_patch4_window7_224", "dat_tiny", "datpp_tiny"]:
        for training in (False, True):
            found = kernels(name, training)
            named = [kernel for kernel in found if kernel[0]]
            written = sum(kernel[0] == "fused" for kernel in named)
            flops, moved = (sum(kernel[part] for kernel in found) for part in (1, 2))
            mode = "training" if training else "inference"
            print(f"{name}, {mode}: {len(named):,} kernels, {written:,} generated by Triton, {moved / 1e9:.1f} GB, ")
            print(f"  {flops / 1e12:.2f} TFLOP in the others")
            for card, (peak, bandwidth) in CARDS.items():
                seconds = sum(max(kernel[1] / peak, kernel[2] / bandwidth) for kernel in found)
                print(f"  {card}: {BATCH / seconds:,.0f} images/s")


if __name__ == "__main__":
    main()
