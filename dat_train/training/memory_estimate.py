"""Estimate of the memory of a training step."""

from collections.abc import Sequence

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks

from dat_train.runtime.precision import Precision


def estimate_memory(
    model: nn.Module,
    image_shape: tuple[int, int, int],
    micro_batch_size: int,
    precision: Precision,
    *,
    ema: bool,
    optimizer_state: float = 2.0,
    teachers: Sequence[nn.Module] = (),
) -> dict[str, int]:
    """Bytes on the device, by use.

    Exact for weights, gradients, AdamW's moments and the average. Activations are the tensors that autograd saves in
    the forward pass of one micro-batch, counted on the meta device (no memory, about a second). The batch itself,
    workspaces and the allocator's overhead are not included; they are often 10 to 20 percent more. On a CPU, stochastic
    depth saves no activations of dropped images; the estimate does not subtract them.

    Args:
        image_shape: (C, H, W).
        optimizer_state: bytes of the optimizer's state over those of the trained weights, see `optimizer.state_size`.
        teachers: further models on the device, without gradients. Their activations are not counted, because they are
            freed during the forward pass.
    """
    parameters = list(model.parameters())
    weights = _weight_bytes(model)
    trained = sum(p.numel() * p.element_size() for p in parameters if p.requires_grad)
    estimate = {"weights": weights, "gradients": trained, "optimizer": round(optimizer_state * trained)}
    if ema:
        estimate["average"] = weights
    if teachers:
        estimate["teacher"] = sum(map(_weight_bytes, teachers))
    # batch normalization of a 1 x 1 map needs two images
    two, three = (_saved_bytes(model, (images, *image_shape), precision) for images in (2, 3))
    # the part that does not grow with the batch is that of weights in autocast's dtype
    return estimate | {"activations": two + (micro_batch_size - 2) * (three - two)}


def _weight_bytes(model: nn.Module) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in [*model.parameters(), *model.buffers()])


def _saved_bytes(model: nn.Module, shape: tuple[int, int, int, int], precision: Precision) -> int:
    """Bytes that autograd saves in the forward pass of images (B, C, H, W), without the weights."""
    kept: dict[int, int] = {}
    alive = []  # keeps the storages, because the key of a freed one may be used again

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage._cdata] = storage.nbytes()
        alive.append(storage)
        return tensor

    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        tensors = [*model.named_parameters(), *model.named_buffers()]
        fake = {name: mode.from_tensor(t).to(precision.device) for name, t in tensors}  # may be on another device
        own = {tensor.untyped_storage()._cdata for tensor in fake.values()}
        images = torch.empty(shape, dtype=precision.weights_dtype, device=precision.device)
        with saved_tensors_hooks(keep, lambda tensor: tensor), precision.context():
            torch.func.functional_call(model, fake, images)
    return sum(size for number, size in kept.items() if number not in own)


def memory_text(estimate: dict[str, int]) -> str:
    """Format bytes by use as text. GB are 10^9 bytes."""
    parts = ", ".join(f"{use} {_size(size)}" for use, size in estimate.items())
    return f"about {_size(sum(estimate.values()))} per process: {parts}"


def _size(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"
