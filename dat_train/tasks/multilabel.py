"""Image classification with any number of labels per image: binary cross-entropy, mean average precision."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from dat_train.data.batch import Batch, prepare_images
from dat_train.data.mixing import MultiHotMixing
from dat_train.evaluation.multilabel import evaluate_multilabel
from dat_train.runtime.precision import Precision
from dat_train.runtime.processes import Processes
from dat_train.tasks.batch_picture import write_batch_picture
from dat_train.tasks.binary_cross_entropy import BinaryCrossEntropy
from dat_train.tasks.classification import Images
from dat_train.training.task import Draw, Evaluation, Loss, Score


class MultiLabelClassification:
    """Multi-label classification task.

    Args:
        classes: names by class number.
        images: input of the model.
        precision: number format of the forward pass and of the loss.
        mixing: mixup, cutmix and label smoothing.
        objective: loss of logits and targets.
    """

    name = "multilabel"
    score = Score("map", "mAP {:.2f} %")

    def __init__(
        self,
        classes: Sequence[str],
        images: Images,
        *,
        precision: Precision,
        mixing: MultiHotMixing,
        objective: BinaryCrossEntropy,
    ) -> None:
        self.classes = classes
        self.images = images
        self.precision = precision
        self.mixing = mixing
        self.objective = objective

    def loss(self, forward: nn.Module, batch: Batch, draw: Draw) -> Loss:
        images, targets = self._mixed(batch, draw)
        with self.precision.context():
            logits = forward(images)
        return Loss(self.objective(logits, targets.to(self.precision.weights), images))

    def example(self, size: int) -> Batch:
        labels = torch.zeros(size, len(self.classes), dtype=torch.int8)
        return Batch(torch.zeros(size, *self.images.shape), labels, torch.arange(size), [])

    def evaluate(self, model: nn.Module, batches: Iterable[Batch], processes: Processes) -> Evaluation:
        found = evaluate_multilabel(model, batches, precision=self.precision, processes=processes)
        return Evaluation(
            numbers={"loss": found.loss, "map": found.map, "f1": found.f1},
            text=f"mAP {found.map:.2f} %   F1 {found.f1:.2f} %   loss {found.loss:.4f}",
        )

    def draw_batch(self, batch: Batch, draw: Draw, path: Path) -> None:
        images, targets = self._mixed(batch, draw)
        smoothing = self.mixing.label_smoothing
        shares = (targets - smoothing / 2) / (1 - smoothing)
        write_batch_picture(
            images, shares, self.classes, path, mean=self.images.mean, std=self.images.std, several=True
        )

    def _mixed(self, batch: Batch, draw: Draw) -> tuple[Tensor, Tensor]:
        """Mixed images (B, C, H, W) and targets (B, classes), float32, on the device."""
        images = prepare_images(batch, self.precision.device, self.precision.weights)
        labels = batch.labels.to(self.precision.device, non_blocking=True)
        return self.mixing(images, labels, "mixup", *draw, step=draw.step)


def positive_weights(targets: np.ndarray) -> Tensor:
    """Number of images without a label over the number of images with it; 1 for a label without images.

    A label then counts in the loss as if half of the images had it.

    Args:
        targets: (images, classes) bool, of the training set.

    Returns:
        (classes,) float64.

    Source: `pos_weight` in the documentation of torch.nn.BCEWithLogitsLoss.
    """
    positive = torch.from_numpy(targets.sum(0, dtype=np.int64)).double()
    return torch.where(positive > 0, (len(targets) - positive) / positive.clamp(min=1), 1.0)
