"""Speed and memory of whole models: inference and a training step (forward, backward, optimizer)."""

from collections.abc import Sequence

import timm
import torch
from torch.utils._pytree import tree_leaves

from dat_train.benchmark.clock import interleaved
from dat_train.benchmark.peak_memory import peak_memory
from dat_train.benchmark.result import Result
from dat_train.benchmark.workloads import Classification
from dat_train.errors import UserError
from dat_train.models import count_parameters
from dat_train.models.kernels import accelerate
from dat_train.models.kernels.flex import allow_graphs

MODES = ("inference", "training")


class Candidate:
    """A model to measure, with optimizer, random images and targets.

    Args:
        name: of a timm model, DAT or another.
        size: side of the images, or (height, width), pixels.
        weights, autocast: formats of the weights and, if not None, of autocast.
        compiled: compile the plain model with torch.compile.
        kernels: kernels of the eager model, as in `accelerate`.
        task: creates model, targets and loss; None: classification.
        arguments: of timm.create_model.

    Raises:
        UserError: timm has no such model, or the model does not take images of this size.
    """

    def __init__(
        self,
        name: str,
        *,
        size: int | tuple[int, int],
        batch_size: int,
        device: torch.device,
        weights: torch.dtype,
        autocast: torch.dtype | None,
        compiled: bool,
        kernels: str = "auto",
        task: Classification | None = None,
        **arguments,
    ) -> None:
        if not timm.is_model(name):
            raise UserError(f"{name} is not a model of timm; timm.list_models() has the names")
        torch.manual_seed(0)
        size = (size, size) if isinstance(size, int) else size
        self.task = task = task or Classification()
        self.model = task.create(name, **arguments)
        try:
            self.macs = task.macs(self.model, size)
        except (AssertionError, RuntimeError, ValueError) as error:
            raise UserError(f"{name} does not take images of {size[0]} x {size[1]} pixels: {error}") from None
        self.model.to(device, weights)
        if compiled:
            allow_graphs(64)  # models of one class share their code
        else:
            accelerate(self.model, device, kernels)
        self.forward = torch.compile(self.model) if compiled else self.model
        self.device = device
        self.autocast = autocast
        channels = getattr(self.model, "in_chans", 3)  # not every model of timm has it
        self.images = torch.randn(batch_size, channels, *size, device=device, dtype=weights)
        self.targets = task.targets(self.model, self.images)
        fused = device.type in ("cpu", "cuda", "mps")
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-5, fused=fused)

    def inference(self) -> None:
        self.model.eval()
        with torch.inference_mode(), self._precision():
            self.forward(self.images)

    def training(self) -> None:
        self.model.train()
        self.optimizer.zero_grad()
        with self._precision():
            loss = self.task.loss(self.forward, self.images, self.targets)
        loss.backward()
        self.optimizer.step()

    def held(self) -> list[torch.Tensor]:
        """Tensors that live between steps: weights, buffers, optimizer state and batch."""
        state = [t for s in self.optimizer.state.values() for t in s.values() if isinstance(t, torch.Tensor)]
        targets = [leaf for leaf in tree_leaves(self.targets) if isinstance(leaf, torch.Tensor)]
        return [*self.model.parameters(), *self.model.buffers(), *state, self.images, *targets]

    def _precision(self) -> torch.autocast:
        return torch.autocast(self.device.type, self.autocast, enabled=self.autocast is not None)


def benchmark_models(
    candidates: dict[str, Candidate], modes: Sequence[str], *, repeats: int, warmup: int, compiled: bool
) -> list[Result]:
    """Measure all candidates in every mode, interleaved.

    Memory of compiled models is measured on CUDA only: elsewhere tensors are counted, and compiled code hides them.
    """
    results = []
    for mode in modes:
        device = next(iter(candidates.values())).device
        tasks = {name: getattr(candidate, mode) for name, candidate in candidates.items()}
        seconds = interleaved(tasks, repeats=repeats, warmup=warmup, device=device)
        for name, candidate in candidates.items():
            candidate.optimizer.zero_grad()
            torch.manual_seed(0)  # on a CPU, memory depends on the images that stochastic depth drops
            countable = device.type == "cuda" or not compiled
            memory = peak_memory(tasks[name], candidate.held(), device) if countable else None
            parameters = count_parameters(candidate.model)
            counts = {"memory": memory, "parameters": parameters, "macs": candidate.macs}
            results.append(Result(name, mode, compiled, len(candidate.images), seconds[name], **counts))
    return results
