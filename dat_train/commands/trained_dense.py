"""Trained segmentation model or detector without its data set, for other images."""

from collections.abc import Sequence

import torch
from PIL.Image import Image
from torch import Tensor

from dat_train.commands.build_task import task_builders
from dat_train.commands.trained import TrainedModel
from dat_train.data.scenes.dense_transforms import Normalized, scaled_views
from dat_train.errors import UserError
from dat_train.evaluation.detection import detect
from dat_train.evaluation.segmentation import predict_scene
from dat_train.models.checkpoint import Checkpoint
from dat_train.models.detection.boxes import Detections
from dat_train.settings import Settings


class TrainedDense(TrainedModel):
    """Trained segmentation model or detector, and the preparation of its images."""

    def views(self, image: Image, scales: Sequence[float] = (1.0,)) -> list[Tensor]:
        """The image, resized and normalized, at every scale: (3, h, w) each."""
        data = self.settings.data
        return scaled_views(image, self.settings.dense.limits, scales, Normalized(data.mean, data.std))

    @torch.inference_mode()
    def segment(self, image: Image, scales: Sequence[float] | None = None, flip: bool | None = None) -> Tensor:
        """Class (H, W) of every pixel of an image, on the CPU.

        Args:
            scales, flip: views whose probabilities are averaged; None: dense.scales and dense.flip.
        """

        def forward(images: Tensor) -> Tensor:
            with self.precision.context():
                return self.model(images.to(self.precision.device, self.precision.weights))

        dense = self.settings.dense
        views = self.views(image, scales or dense.scales or (1.0,))
        flip = bool(dense.flip) if flip is None else flip
        return predict_scene(forward, views, (image.height, image.width), flip).cpu()

    @torch.inference_mode()
    def detect(self, image: Image) -> Detections:
        """Detections of an image in its own pixels."""
        return detect(self.model, self.views(image)[0], (image.height, image.width), self.precision)


def assemble_dense(settings: Settings, checkpoint: Checkpoint, ema: bool | None, device: str) -> TrainedDense:
    """Build the model of `settings` with the weights in the checkpoint; arguments as in `assemble`.

    Raises:
        UserError: weights of another architecture, or a file without class names.
    """
    classes = list(checkpoint.classes)
    if not classes:
        raise UserError(f"{checkpoint.path} has no class names: it must be a checkpoint of dat-train or a released one")
    model = task_builders(settings).model(settings, len(classes))
    return TrainedDense.load(model, classes, settings, checkpoint=checkpoint, ema=ema, device=device)
