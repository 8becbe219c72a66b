"""Custom data set with this project's augmentation, loaders and evaluation.

python examples/own_dataset.py
"""

import timm
import torch
import torch.nn.functional as F
from PIL import Image
from sklearn.datasets import load_sample_image

import dat_train.models  # noqa: F401  registers the models
from dat_train.data.augment import eval_transform, train_transform
from dat_train.data.batch import prepare_images
from dat_train.data.dataset import ImageDataset
from dat_train.data.loader import evaluation_loader, train_loader
from dat_train.data.micro_batches import MicroBatchSampler
from dat_train.evaluation.classification import evaluate
from dat_train.runtime.precision import resolve_precision

SIZE, MEAN, STD = 16, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)


class Crops(ImageDataset):
    """Crops of 64 x 64 pixels from two photographs; the class is the photograph."""

    def __init__(self, columns: range, **kwargs) -> None:
        self.photos = [load_sample_image(name) for name in ("china.jpg", "flower.jpg")]  # (427, 640, 3) each
        boxes = [(label, 60 * row, 64 * column) for label in range(2) for row in range(6) for column in columns]
        super().__init__([(f"{box}", box[0]) for box in boxes], ["china", "flower"], **kwargs)
        self.boxes = boxes

    def read(self, index: int) -> Image.Image:
        """Return the image with number `index`; the only method to override."""
        label, y, x = self.boxes[index]
        return Image.fromarray(self.photos[label][y : y + 64, x : x + 64])


def main() -> None:
    torch.manual_seed(0)
    augment = train_transform(SIZE, scale=(0.3, 1.0), color_jitter=0.3, mean=MEAN, std=STD)
    train = Crops(range(0, 7), transform=augment)
    held_out = Crops(range(7, 10), transform=eval_transform(SIZE, crop_pct=1.0, mean=MEAN, std=STD), training=False)

    model = timm.create_model("dat_nano", num_classes=2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    # sample order and augmentation are functions of the seed, independent of the number of workers
    order = MicroBatchSampler(len(train), seed=0, batch_size=28, micro_batch_size=28, first_step=0, last_step=12)
    for batch in train_loader(train, order):
        loss = F.cross_entropy(model(prepare_images(batch)), batch.labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    result = evaluate(
        model,
        evaluation_loader(held_out, batch_size=36),
        num_classes=2,
        precision=resolve_precision("fp32", torch.device("cpu")),
    )
    print(f"top-1 {result.top1:.1f} % on {result.count} held-out crops")


if __name__ == "__main__":
    main()
