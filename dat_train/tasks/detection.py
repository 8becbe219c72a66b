"""Object detection and instance segmentation: losses of the detector, average precision of COCO."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import KW_ONLY, dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from dat_train.data.batch import SceneList, denormalize
from dat_train.data.scenes.detection_dataset import ObjectBatch, pad_batch
from dat_train.evaluation.detection import evaluate_detection
from dat_train.evaluation.scenes_picture import draw_objects, write_grid
from dat_train.runtime.precision import Precision
from dat_train.runtime.processes import Processes
from dat_train.training.task import Evaluation, Loss, MicroBatchKey, Score


@dataclass(eq=False)
class ObjectDetection:
    """Detection task.

    Args:
        classes: names by class number.
        size: (height, width) of an example image.
        mean, std: of the images' channels.
        precision: data types of the forward pass.
        with_masks: the detector has masks.
    """

    classes: Sequence[str]
    size: tuple[int, int]
    mean: Sequence[float]
    std: Sequence[float]
    _: KW_ONLY
    precision: Precision
    with_masks: bool

    name = "detection"
    score = Score("box_ap", "box AP {:.2f} %")

    def loss(self, forward: Callable[..., object], batch: ObjectBatch, key: MicroBatchKey) -> Loss:
        device = self.precision.device
        images = batch.images.to(device, self.precision.weights_dtype, non_blocking=True)
        targets = tree_map_only(Tensor, lambda part: part.to(device, non_blocking=True), batch.targets)
        with self.precision.context():
            losses = forward(images, batch.sizes, targets)
        return Loss(
            sum(losses.values()), {name.removeprefix("loss_"): value.detach() for name, value in losses.items()}
        )

    def example(self, size: int) -> ObjectBatch:
        height, width = self.size
        target = {"boxes": torch.tensor([[8.0, 8, 40, 40]]), "labels": torch.zeros(1, dtype=torch.int64)}
        if self.with_masks:
            target["masks"] = torch.ones(1, height, width, dtype=torch.bool)
        images, sizes = pad_batch([torch.zeros(len(self.mean), height, width)] * size)
        return ObjectBatch(images, sizes, [dict(target) for _ in range(size)], [])

    def evaluate(self, model: nn.Module, batches: Iterable[SceneList], processes: Processes) -> Evaluation:
        found = evaluate_detection(model, batches, classes=self.classes, precision=self.precision, processes=processes)
        numbers = {f"box_{name.lower()}": 100 * value for name, value in found.box.items()}
        numbers |= {f"mask_{name.lower()}": 100 * value for name, value in found.mask.items()}
        text = f"box AP {100 * found.box['AP']:.2f} %   AP50 {100 * found.box['AP50']:.2f} %"
        if found.mask:
            text += f"   mask AP {100 * found.mask['AP']:.2f} %"
        return Evaluation(numbers=numbers, text=text)

    def draw_batch(self, batch: ObjectBatch, key: MicroBatchKey, path: Path) -> None:
        pictures = []
        for image, (height, width), target in zip(batch.images, batch.sizes, batch.targets, strict=True):
            picture = Image.fromarray(denormalize(image[:, :height, :width], self.mean, self.std))
            labels = target["labels"].tolist()
            names = [self.classes[label] for label in labels]
            pictures.append(draw_objects(picture, target["boxes"], names, labels, target.get("masks")))
        write_grid(pictures[:8], path, columns=4)
