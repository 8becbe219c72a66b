"""Semantic segmentation: cross-entropy of two heads, mean intersection over union at original size."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import KW_ONLY, dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from dat_train.data.batch import SceneList, denormalize
from dat_train.data.scenes.segmentation_dataset import SceneBatch
from dat_train.errors import UserError
from dat_train.evaluation.confusion_picture import write_confusion_counts
from dat_train.evaluation.scenes_picture import overlay, write_grid
from dat_train.evaluation.segmentation import evaluate_segmentation
from dat_train.models.segmentation import segmentation_loss
from dat_train.runtime.precision import Precision
from dat_train.runtime.processes import Processes
from dat_train.training.task import Evaluation, Loss, MicroBatchKey, Score


@dataclass(eq=False)
class SemanticSegmentation:
    """Segmentation task.

    Args:
        classes: names by class number.
        crop: side of the training images.
        mean, std: of the images' channels.
        precision: data types of the forward pass.
        aux_weight: weight of the auxiliary head's loss.
        class_weights: weight of each class in the loss, in the order of `classes`; None: 1.
        flip: average with mirror images in the evaluation.

    Raises:
        UserError: class weights that are not one for each class.
    """

    classes: Sequence[str]
    crop: int
    mean: Sequence[float]
    std: Sequence[float]
    _: KW_ONLY
    precision: Precision
    aux_weight: float = 0.4
    class_weights: Sequence[float] | Tensor | None = None
    flip: bool = False

    name = "segmentation"
    score = Score("miou", "mIoU {:.2f} %")

    def __post_init__(self) -> None:
        weights, number = self.class_weights, len(self.classes)
        if weights is None:
            return
        if len(weights) != number:
            raise UserError(f"dense.class_weights has {len(weights)} numbers for {number} classes; give one for each")
        self.class_weights = torch.tensor(list(weights), dtype=torch.float32, device=self.precision.device)

    def loss(self, forward: Callable[..., object], batch: SceneBatch, key: MicroBatchKey) -> Loss:
        images = batch.images.to(self.precision.device, self.precision.weights_dtype, non_blocking=True)
        labels = batch.labels.to(self.precision.device, non_blocking=True)
        with self.precision.context():
            logits, auxiliary = forward(images)
        decode = segmentation_loss(logits, labels, self.class_weights)
        if auxiliary is None:
            return Loss(decode)
        extra = self.aux_weight * segmentation_loss(auxiliary, labels, self.class_weights)
        return Loss(decode + extra, {"decode": decode.detach(), "auxiliary": extra.detach()})

    def example(self, size: int) -> SceneBatch:
        labels = torch.zeros(size, self.crop, self.crop, dtype=torch.int64)
        return SceneBatch(torch.zeros(size, len(self.mean), self.crop, self.crop), labels, [])

    def evaluate(self, model: nn.Module, batches: Iterable[SceneList], processes: Processes) -> Evaluation:
        found = evaluate_segmentation(
            model,
            batches,
            num_classes=len(self.classes),
            precision=self.precision,
            processes=processes,
            flip=self.flip,
        )
        return Evaluation(
            numbers={"miou": found.miou, "pixel_accuracy": found.pixel_accuracy},
            text=f"mIoU {found.miou:.2f} %   pixel accuracy {found.pixel_accuracy:.2f} %",
            pictures={"confusion": lambda path: write_confusion_counts(found.confusion, self.classes, path)},
        )

    def draw_batch(self, batch: SceneBatch, key: MicroBatchKey, path: Path) -> None:
        pictures = []
        for image, labels in list(zip(batch.images, batch.labels, strict=True))[:8]:
            picture = Image.fromarray(denormalize(image, self.mean, self.std))
            pictures += [picture, overlay(picture, np.asarray(labels), self.classes)]
        write_grid(pictures, path, columns=4)
