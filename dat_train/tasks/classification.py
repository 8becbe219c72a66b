"""Image classification with one label per image: mixing, cross-entropy or distillation, top-1 and top-5 accuracy."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from dat_train.data.batch import Batch, prepare_images
from dat_train.data.mixing import Mixing, MultiHotMixing
from dat_train.evaluation.classification import evaluate
from dat_train.evaluation.confusion_picture import write_confusion
from dat_train.runtime.precision import Precision
from dat_train.runtime.processes import Processes
from dat_train.tasks.batch_picture import write_batch_picture
from dat_train.tasks.losses import cross_entropy
from dat_train.training.task import Evaluation, Loss, MicroBatchKey, Score

Objective = Callable[[Tensor, Tensor, Tensor], Tensor]


class Images(NamedTuple):
    """Normalization and shape of a model's images.

    Args:
        size: pixels per side.
        mean, std: per channel.
    """

    size: int
    mean: Sequence[float]
    std: Sequence[float]

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        return len(self.mean), self.size, self.size


@dataclass(eq=False)
class ImageClassification:
    """Classification task.

    Args:
        classes: names by class number.
        images: input of the model.
        precision: data types of the forward pass and of the loss.
        mixing: mixup, cutmix and label smoothing.
        objective: loss of logits (B, classes), soft targets (B, classes) and images (B, C, H, W). Returns ().
    """

    classes: Sequence[str]
    images: Images
    _: KW_ONLY
    precision: Precision
    mixing: Mixing | MultiHotMixing
    objective: Objective = cross_entropy

    name = "classification"
    score = Score("top1", "top-1 {:.2f} %")

    def loss(self, forward: nn.Module, batch: Batch, key: MicroBatchKey) -> Loss:
        images, targets = self._mixed(batch, key)
        with self.precision.context():
            logits = forward(images)
        return Loss(self.objective(logits, targets.to(self.precision.weights_dtype), images))

    def example(self, size: int) -> Batch:
        labels = torch.zeros(size, dtype=torch.int64)
        return Batch(torch.zeros(size, *self.images.shape), labels, torch.arange(size), [])

    def evaluate(self, model: nn.Module, batches: Iterable[Batch], processes: Processes) -> Evaluation:
        found = evaluate(model, batches, num_classes=len(self.classes), precision=self.precision, processes=processes)
        loss = f"{found.loss:.4f}" if math.isfinite(found.loss) else "not finite"
        return Evaluation(
            numbers={"loss": found.loss, "top1": found.top1, "top5": found.top5},
            text=f"top-1 {found.top1:.2f} %   top-5 {found.top5:.2f} %   loss {loss}",
            pictures={
                "confusion": lambda path: write_confusion(found.labels, found.predicted, self.classes, path),
            },
        )

    def draw_batch(self, batch: Batch, key: MicroBatchKey, path: Path) -> None:
        images, targets = self._mixed(batch, key)
        write_batch_picture(images, targets, self.classes, path, mean=self.images.mean, std=self.images.std)

    def _mixed(self, batch: Batch, key: MicroBatchKey) -> tuple[Tensor, Tensor]:
        """Mixed images (B, C, H, W) and soft targets (B, classes), float32, on the device."""
        images = prepare_images(batch, self.precision.device, self.precision.weights_dtype)
        labels = batch.labels.to(self.precision.device, non_blocking=True)
        return self.mixing(images, labels, "mixup", *key, step=key.step)
