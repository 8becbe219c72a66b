"""Forward passes in evaluation mode, and gathering of per-sample results over processes. Independent of the task."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from dat_train.errors import UserError
from dat_train.models.modes import evaluating
from dat_train.runtime.precision import Precision
from dat_train.runtime.processes import Processes


@contextmanager
def inference(model: nn.Module, precision: Precision) -> Iterator[Callable[[Tensor], Tensor]]:
    """Evaluation mode and `torch.inference_mode`; every module's training mode is restored afterwards.

    Args:
        model: on `precision.device`; may be compiled or wrapped in DDP.

    Yields:
        A function from images (B, C, H, W) on the host to the model's output on the device. It does not wait for the
        device.
    """
    forward = _unwrap_ddp(model)

    def run(images: Tensor) -> Tensor:
        images = images.to(precision.device, precision.weights_dtype, non_blocking=True)
        with precision.context():
            return forward(images)

    with evaluating(model), torch.inference_mode():
        yield run


def gather_by_index(
    results: Sequence[tuple[Tensor, ...]], unreadable: Sequence[str], processes: Processes | None = None
) -> tuple[list[np.ndarray], list[str]]:
    """Gather the per-sample results of all processes, sorted by sample index.

    Sums over the returned arrays do not depend on the distribution of samples over processes. This function waits for
    the device and for the other processes; the number of samples per process may differ and may be 0.

    Args:
        results: one tuple of tensors (B, ...) per batch; the first tensor holds the sample indices.
        unreadable: paths that this process could not read.
        processes: None for a single process.

    Returns:
        One array per tensor of the tuples (an empty list if no process has a batch), and all unreadable paths, sorted.

    Raises:
        RuntimeError: a sample index occurs twice.
    """
    arrays = [torch.cat(part).cpu().numpy() for part in zip(*results, strict=True)]
    shares = processes.gather((arrays, list(unreadable))) if processes else [(arrays, list(unreadable))]
    paths = sorted(path for _, share in shares for path in share)
    filled = [share for share, _ in shares if share]
    if not filled:
        return [], paths
    arrays = [np.concatenate(part) for part in zip(*filled, strict=True)]
    order = np.argsort(arrays[0], kind="stable")
    arrays = [array[order] for array in arrays]
    if (arrays[0][1:] == arrays[0][:-1]).any():
        raise RuntimeError("a sample was evaluated twice: the loaders of the processes overlap")
    return arrays, paths


def require_images(number: int, unreadable: Sequence[str]) -> None:
    """Raise a UserError if the `number` of readable images is 0."""
    if not number and unreadable:
        raise UserError(f"none of the {len(unreadable)} validation images can be read; check {unreadable[0]}")
    if not number:
        raise UserError("there is no validation image; check data.root")


def _unwrap_ddp(model: nn.Module) -> nn.Module:
    """Return the module inside DDP, whose forward pass may wait for other processes."""
    inner = getattr(model, "_orig_mod", model)  # the module inside torch.compile
    return inner.module if isinstance(inner, DistributedDataParallel) else model
