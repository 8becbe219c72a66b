"""Images of a list of files, decoded and augmented by key."""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from dat_train.data.images import UnreadableImage, read_rgb
from dat_train.data.order import SampleKey
from dat_train.data.randomness import keyed_randomness
from dat_train.data.sample_list import SampleList
from dat_train.errors import UserError

UNREADABLE = -1  # the label of an image that could not be read, in evaluation
MOST_STAND_INS = 100  # unreadable files in a row after which something else is wrong


class Sample(NamedTuple):
    """An image (3, H, W), float32, normalised; its label, its place in the set; unreadable paths met on the way."""

    image: Tensor
    label: int
    index: int
    unreadable: tuple[str, ...]


class ImageDataset(Dataset):
    """Labelled image files.

    Args:
        samples: (path, label) pairs.
        classes: names by label.
        transform: PIL image -> normalised tensor (3, H, W); what is random in it follows from the sample's key.
        seed: of the augmentation.
        stand_in: in training, the next readable image takes the place of an unreadable one, with its own label. In
            evaluation (False) nothing does: the image comes back as zeros with label -1.
    """

    subset: Sequence[int] | None = None  # of sets to test on: classes that occur (`TestImages`)
    right: Tensor | None = None  # and for each image all labels that are right

    def __init__(
        self,
        samples: Iterable[tuple[str, int]],
        classes: Sequence[str],
        transform: Callable[[Image.Image], Tensor] | None = None,
        seed: int = 0,
        stand_in: bool = True,
    ) -> None:
        self.samples = SampleList(samples)
        self.classes = list(classes)
        self.transform = transform
        self.seed = seed
        self.stand_in = stand_in

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, key: SampleKey) -> Sample:
        """The sample of `key`, the same in every process and at every time.

        Raises:
            UserError: too many unreadable images in a row.
        """
        unreadable: list[str] = []
        for step in range(min(len(self), MOST_STAND_INS)):
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
            f"{len(unreadable)} images in a row cannot be read, from {unreadable[0]} on: is the disk still there?"
        )

    def fingerprint(self) -> str:
        """16 hexadecimal digits that follow from all paths and labels; contents are not read."""
        digest = hashlib.blake2b(digest_size=8)
        for path, label in self.samples:
            digest.update(f"{path}\0{label}\n".encode())
        return digest.hexdigest()

    def read(self, index: int) -> Image.Image:
        """The image at `index`, RGB.

        Raises:
            UnreadableImage
        """
        return read_rgb(self.samples[index][0])

    def _blank(self) -> Tensor:
        """Zeros in the shape of a transformed image."""
        with keyed_randomness("blank"):
            return torch.zeros_like(self.transform(Image.new("RGB", (32, 32))))
