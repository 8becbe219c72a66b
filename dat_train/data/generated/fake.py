"""Random images made from their index, for benchmarks and trials without files."""

import numpy as np
from PIL import Image

from dat_train.data.dataset import ImageDataset
from dat_train.data.randomness import keyed_seed


class FakeImages(ImageDataset):
    """Dataset of `size` random RGB images of `image_size` x `image_size` pixels in `classes` classes.

    Each image is noise around a color given by its class, so that a model can learn something. It is a function of
    `part` and its index only.
    """

    def __init__(self, size: int, classes: int, image_size: int, *, part: str, training: bool = True) -> None:
        samples = [(f"fake/{part}/{index}", index % classes) for index in range(size)]
        super().__init__(samples, [str(label) for label in range(classes)], training=training)
        self.image_size = image_size

    def read(self, index: int) -> Image.Image:
        path, label = self.samples[index]
        color = np.random.default_rng(label).uniform(64, 192, 3)
        noise = np.random.default_rng(keyed_seed(path)).standard_normal((self.image_size, self.image_size, 3))
        return Image.fromarray(np.clip(color + 32 * noise, 0, 255).astype(np.uint8))
