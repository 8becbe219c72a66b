"""Image classification with any number of labels per image: binary cross-entropy, mean average precision."""

from collections.abc import Iterable
from pathlib import Path

import torch
from torch import nn

from dat_train.data.batch import Batch
from dat_train.evaluation.multilabel import evaluate_multilabel
from dat_train.runtime.processes import Processes
from dat_train.tasks.batch_picture import write_batch_picture
from dat_train.tasks.classification import ImageClassification
from dat_train.training.task import Evaluation, MicroBatchKey, Score


class MultiLabelClassification(ImageClassification):
    """Multi-label classification task: `ImageClassification` with `MultiHotMixing` and `BinaryCrossEntropy`."""

    name = "multilabel"
    score = Score("map", "mAP {:.2f} %")

    def example(self, size: int) -> Batch:
        return super().example(size)._replace(labels=torch.zeros(size, len(self.classes), dtype=torch.int8))

    def evaluate(self, model: nn.Module, batches: Iterable[Batch], processes: Processes) -> Evaluation:
        found = evaluate_multilabel(model, batches, precision=self.precision, processes=processes)
        return Evaluation(
            numbers={"loss": found.loss, "map": found.map, "f1": found.f1},
            text=f"mAP {found.map:.2f} %   F1 {found.f1:.2f} %   loss {found.loss:.4f}",
        )

    def draw_batch(self, batch: Batch, key: MicroBatchKey, path: Path) -> None:
        images, targets = self._mixed(batch, key)
        smoothing = self.mixing.label_smoothing
        shares = (targets - smoothing / 2) / (1 - smoothing)
        normalization = {"mean": self.images.mean, "std": self.images.std}
        write_batch_picture(images, shares, self.classes, path, **normalization, several=True)
