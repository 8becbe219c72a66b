"""Peak memory of a task."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def peak_memory(task: Callable[[], object], held: Iterable[Tensor], device: torch.device) -> int:
    """Peak of the allocated bytes during `task`, including the tensors `held` before it (weights, optimizer state).

    On CUDA: the maximum of the allocator minus the memory allocated before. Elsewhere the living tensors are counted
    after every operator, because resident memory depends on the allocator. Memory that operators allocate and free
    internally is not counted.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)  # of this model and of everything else
        task()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before + _bytes(held)
    with _LiveTensors(held) as live:
        task()
    return live.peak


def _bytes(tensors: Iterable[Tensor]) -> int:
    """Bytes of the storages, each counted once."""
    storages = {tensor.untyped_storage()._cdata: tensor.untyped_storage().nbytes() for tensor in tensors}
    return sum(storages.values())


class _LiveTensors(TorchDispatchMode):
    """Total size of the living storages that operators returned."""

    def __init__(self, held: Iterable[Tensor]) -> None:
        super().__init__()
        self.live: dict[int, tuple[StorageWeakRef, int]] = {}
        self.total = 0
        for tensor in held:
            self._add(tensor)
        self.peak = self.total

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self._add(leaf)
        if self.total > self.peak:  # some may have been freed since they were counted
            self.live = {key: item for key, item in self.live.items() if not item[0].expired()}
            self.total = sum(size for _, size in self.live.values())
            self.peak = max(self.peak, self.total)
        return out

    def _add(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self.live:
            ref, size = self.live[key]
            if not ref.expired():
                return
            self.total -= size  # another storage at the address of a freed one
        self.live[key] = (StorageWeakRef(storage), storage.nbytes())
        self.total += storage.nbytes()
