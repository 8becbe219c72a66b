"""Interface between the training loop and a task: classification, segmentation, detection, ...

Loop, checkpoints, logs and summary use a task only through this protocol. A task has the objects for its loss and its
evaluation (precision, classes, mixing, normalization); the loop has the model, its wrappers, optimizer and data.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol

from torch import Tensor, nn

from dat_train.runtime.processes import Processes


class MicroBatch(Protocol):
    """Samples of a micro-batch, created by the task's data set and collate function.

    The loop reads `unreadable` only: paths of files that could not be read and were replaced by other samples.
    """

    unreadable: list[str]


class MicroBatchKey(NamedTuple):
    """Key of the random draws of a micro-batch: `keyed_randomness("mixup", *key)`."""

    seed: int
    step: int
    micro_batch: int


class Loss(NamedTuple):
    """Loss of a micro-batch.

    Args:
        total: () on the device, with gradient; a mean over the samples, not scaled by the number of micro-batches.
        parts: further values () by name, without gradient, for the log ("loss_NAME" in metrics.jsonl). The same names
            in every micro-batch.
    """

    total: Tensor
    parts: Mapping[str, Tensor] = {}


class Score(NamedTuple):
    """Score of an evaluation: higher is better. It decides which checkpoint is the best.

    Args:
        name: one of `Evaluation.numbers`, for files: "top1" gives val_top1 in metrics.jsonl and best_top1 in
            summary.json.
        template: format of the value in messages: "top-1 {:.2f} %".
    """

    name: str
    template: str

    def text(self, value: float) -> str:
        return self.template.format(value)


@dataclass(frozen=True)
class Evaluation:
    """Result of an evaluation, identical in all processes.

    Args:
        numbers: values by name, with the score's name among them; "val_NAME" in metrics.jsonl, "final_NAME" in
            summary.json.
        text: one line for the terminal.
        pictures: functions that draw a picture to a path, by name; drawn to NAME.png in the run's folder if the
            evaluation is the best so far and the run has loggers.
    """

    numbers: Mapping[str, float]
    text: str
    pictures: Mapping[str, Callable[[Path], object]] = field(default_factory=dict)


class Task(Protocol):
    """Task of a training run.

    Attributes:
        name: as in task=NAME.
        score: score of its evaluations.
    """

    name: str
    score: Score

    def loss(self, forward: Callable[..., object], batch: MicroBatch, key: MicroBatchKey) -> Loss:
        """Compute the loss of a micro-batch.

        Args:
            forward: the model as the loop calls it, possibly compiled or wrapped in DDP. It is called exactly once, in
                the precision's context, with the inputs of the model: `forward(images)` or `forward(images, targets)`.
            batch: on the host; the task moves it to the device. Images and targets are not changed in place.
            key: of every random draw outside of the model. Draws inside the model (dropout, stochastic depth)
                come from torch's generator, which the loop has seeded with this key.
        """
        ...

    def example(self, size: int) -> MicroBatch:
        """Return a batch of `size` samples of the right shapes and types with arbitrary content, on the host.

        Used before training, to let DDP set up its buckets and to estimate memory.
        """
        ...

    def evaluate(self, model: nn.Module, batches: Iterable[MicroBatch], processes: Processes) -> Evaluation:
        """Evaluate `model` on the samples of this process, and gather results; each sample counts once.

        Args:
            model: without wrappers, on the device; put into evaluation mode here.
            batches: from the validation loader. The iterator ends early, with an exception, if the run is asked to
                stop.
        """
        ...

    def draw_batch(self, batch: MicroBatch, key: MicroBatchKey, path: Path) -> None:
        """Draw a picture (PNG) of a micro-batch with its targets, as the input of the model."""
        ...
