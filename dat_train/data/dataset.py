"""Dataset of labelled image files, decoded and augmented by key."""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from dat_train.data.image_source import ImageSource, sample_key
from dat_train.data.images import UnreadableImage, read_rgb
from dat_train.data.order import SampleKey
from dat_train.data.randomness import keyed_randomness
from dat_train.data.sample_list import SampleList
from dat_train.errors import UserError

UNREADABLE = -1  # label of an image that could not be read, in evaluation
MAX_STAND_INS = 100  # consecutive unreadable files after which the storage itself is at fault


class Sample(NamedTuple):
    """Normalized image (C, H, W) float32, its label, its index in the set, and unreadable paths found before it."""

    image: Tensor
    label: int
    index: int
    unreadable: tuple[str, ...]


class ImageDataset(Dataset):
    """Labelled images.

    Args:
        samples: (path, label) pairs.
        classes: class names by label.
        transform: PIL image -> normalized tensor (C, H, W). Its random draws are a function of the sample's key.
        seed: of the augmentation.
        stand_in: in training, the next readable image replaces an unreadable one, with its own label. In evaluation
            (False) the image is returned as zeros with label -1.

    Attributes:
        base: common beginning of all paths, which is no part of the fingerprint.
        source: encoded images by index; None: the paths are files.
        notes: facts about the set the user should know, one line each.
        targets: (images, classes) bool, all labels of each image, of multi-label data.
        subset: labels of the classes that occur in a test set; predictions are restricted to them.
        right: (images, max labels) all labels that count as correct, padded with -1.
    """

    base: str = ""
    source: ImageSource | None = None
    notes: Sequence[str] = ()
    targets: np.ndarray | None = None
    subset: Sequence[int] | None = None
    right: Tensor | None = None

    def __init__(
        self,
        samples: Iterable[tuple[str, int]],
        classes: Sequence[str],
        transform: Callable[[Image.Image], Tensor] | None = None,
        seed: int = 0,
        stand_in: bool = True,
    ) -> None:
        self.samples = samples if isinstance(samples, SampleList) else SampleList(samples)
        self.classes = list(classes)
        self.transform = transform
        self.seed = seed
        self.stand_in = stand_in

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, key: SampleKey) -> Sample:
        """Return the sample of `key`, the same in every process and at any time.

        Raises:
            UserError: too many consecutive unreadable images.
        """
        unreadable: list[str] = []
        for step in range(min(len(self), MAX_STAND_INS)):
            index = (key.index + step) % len(self)
            try:
                image = self.read(index)
            except UnreadableImage as error:
                unreadable.append(error.path)
                if not self.stand_in:
                    return Sample(self._blank(), UNREADABLE, index, tuple(unreadable))
                continue
            with keyed_randomness("sample", self.seed, key.epoch, key.index, key.repeat):
                return Sample(self.transform(image), self.samples[index][1], index, tuple(unreadable))
        raise UserError(
            f"{len(unreadable)} consecutive images cannot be read, beginning with {unreadable[0]}: check the disk"
        )

    def fingerprint(self) -> str:
        """Hash of the class and name of every image, as 16 hexadecimal digits.

        It depends neither on the root folder nor on the form of storage. Image contents are not read.
        """
        digest = hashlib.blake2b(digest_size=8)
        for path, label in self.samples:
            name = self.classes[label]
            digest.update(f"{name}\0{sample_key(path, self.base, name)}\n".encode())
        return digest.hexdigest()

    def encoded(self, index: int) -> str | bytes:
        """Return the path of the image file at `index`, or its content where it lies inside another file.

        Raises:
            OSError: the archive cannot be read.
        """
        return self.samples[index][0] if self.source is None else self.source.open(index)

    def read(self, index: int) -> Image.Image:
        """Return the image at `index`, RGB.

        Raises:
            UnreadableImage
        """
        name = self.samples[index][0]
        try:
            encoded = self.encoded(index)
        except Exception as error:  # an archive that was cut, replaced or unmounted
            raise UnreadableImage(name, f"{type(error).__name__}: {error}") from error
        return read_rgb(encoded, name)

    def _blank(self) -> Tensor:
        """Zeros in the shape of a transformed image."""
        with keyed_randomness("blank"):
            return torch.zeros_like(self.transform(Image.new("RGB", (32, 32))))
