"""Replacement of the modules of a model by faster subclasses, and its reversal."""

import torch
from torch import nn

from dat_train.choices import KERNELS
from dat_train.errors import UserError, require_one_of
from dat_train.models.blocks import Block, Mlp
from dat_train.models.deformable import DeformableAttention, SamplingPositions, TableBias
from dat_train.models.kernels.cpu.deformable import CPUDeformableAttention
from dat_train.models.kernels.cpu.depthwise import CPUSamplingPositions
from dat_train.models.kernels.cpu.mlp import CPUMlp
from dat_train.models.kernels.cpu.stochastic_depth import CPUBlock
from dat_train.models.kernels.cpu.window import CPUWindowAttention
from dat_train.models.kernels.deterministic import DeterministicDeformableAttention, DeterministicTableBias
from dat_train.models.kernels.flex import FlexDeformableAttention, FlexNeighborhoodAttention
from dat_train.models.neighborhood import NeighborhoodAttention
from dat_train.models.window import WindowAttention

CPU = {
    Block: CPUBlock,
    DeformableAttention: CPUDeformableAttention,
    Mlp: CPUMlp,
    SamplingPositions: CPUSamplingPositions,
    WindowAttention: CPUWindowAttention,
}
DETERMINISTIC = {DeformableAttention: DeterministicDeformableAttention, TableBias: DeterministicTableBias}
FLEX = {DeformableAttention: FlexDeformableAttention, NeighborhoodAttention: FlexNeighborhoodAttention}


def accelerate(model: nn.Module, device: torch.device | str, kernels: str = "auto") -> nn.Module:
    """Replace the classes of a DAT's modules by the fastest measured subclasses for a device, in place.

    Parameters, buffers and state dict stay the same, and so do results, up to rounding. Other models and modules are
    unchanged. `restore` undoes it.

    Call it last, after adapters and parametrizations. Modules with a hook or a replaced layer inside are not replaced.
    Hooks on the layers inside an accelerated module that are registered later are not called until `restore`; hooks on
    the module are.
    In training with stochastic depth on a CPU, modules inside a block receive only the images that are kept. On a CPU
    there are no second derivatives. Export and compile the plain model.

    Args:
        model: the model; its weights may still be on another device.
        device: the device it will run on.
        kernels: "auto": the CPU kernels on a CPU, deterministic subclasses on CUDA if torch requires deterministic
            algorithms, else the plain model. "plain": no change. "triton", "flex": deformable attention
            (flex: neighborhood attention too) by kernels that have not been measured on a GPU, on CUDA.

    Returns:
        the model.

    Raises:
        UserError: unknown kernels; kernels that need CUDA, on another device; triton is not installed.
    """
    device = torch.device(device)
    forms = _forms(device, kernels)
    for module in model.modules():
        if type(module) in forms and not _is_modified(module):
            module.__class__ = forms[type(module)]
    return model


def restore(model: nn.Module) -> nn.Module:
    """Undo `accelerate`, in place, and return the model."""
    for module in model.modules():
        if _is_kernel(module):
            module.__class__ = type(module).__bases__[0]
    return model


def is_accelerated(model: nn.Module) -> bool:
    """Return True if a module of the model was replaced by a faster subclass."""
    return any(map(_is_kernel, model.modules()))


def prefers_eager(model: nn.Module, device: torch.device | str, kernels: str = "auto") -> bool:
    """Return True if the accelerated model is faster than the compiled one: a DAT on a CPU (docs/performance.md)."""
    forms = CPU if torch.device(device).type == "cpu" and kernels == "auto" else {}
    return any(type(module) in forms or _is_kernel(module) for module in model.modules())


def _is_kernel(module: nn.Module) -> bool:
    return type(module).__module__.startswith(__name__.rpartition(".")[0] + ".")


def _forms(device: torch.device, kernels: str) -> dict[type[nn.Module], type[nn.Module]]:
    """The faster class of each class of modules."""
    require_one_of("kernels", kernels, KERNELS)
    if kernels in ("triton", "flex") and device.type != "cuda":
        raise UserError(f"kernels={kernels} needs a CUDA device, this is {device.type}; kernels=auto works everywhere")
    if kernels == "flex":
        return FLEX
    if kernels == "triton":
        try:
            from dat_train.models.kernels.triton_attention import TritonDeformableAttention
        except ImportError:
            raise UserError("kernels=triton needs Triton, which is not installed; use kernels=auto") from None
        return {DeformableAttention: TritonDeformableAttention}
    if kernels == "plain":
        return {}
    if device.type == "cuda" and torch.are_deterministic_algorithms_enabled():
        return DETERMINISTIC
    return CPU if device.type == "cpu" else {}


def _is_modified(module: nn.Module) -> bool:
    """Return True if a layer inside has hooks, or another class, bias, activation or `forward` than in models/."""
    inside = list(module.modules())[1:]
    linear = [getattr(module, name) for name in ("fc1", "fc2", "qkv", "proj", "q", "kv") if hasattr(module, name)]
    replaced = any(type(layer) is not nn.Linear for layer in linear)
    if isinstance(module, Mlp | WindowAttention):
        replaced |= any(layer.bias is None for layer in linear)
    if isinstance(module, Mlp):
        replaced |= type(module.act) is not nn.GELU or module.act.approximate != "none"
    return replaced or any(
        "forward" in vars(m) or m._forward_hooks or m._forward_pre_hooks or m._backward_hooks or m._backward_pre_hooks
        for m in inside
    )
