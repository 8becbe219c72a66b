"""Dataset of labeled images, decoded and augmented by key; unreadable images are replaced."""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from dat_train.data.augment import Augmented
from dat_train.data.erasing import Rectangle
from dat_train.data.images import UnreadableImage, first_readable, image_error, read_rgb
from dat_train.data.micro_batches import SampleKey
from dat_train.data.randomness import keyed_randomness
from dat_train.data.reading.image_source import ImageSource, ReadsAhead, sample_key
from dat_train.data.sample_list import SampleList
from dat_train.errors import UserError

UNREADABLE = -1  # label of an image that could not be read, in evaluation


class Sample(NamedTuple):
    """Transformed image with its label.

    Attributes:
        image: (C, H, W), float32 and normalized, or uint8 to be normalized on the device.
        label: class index, or (classes,) int8 of 0 and 1 in multi-label data. UNREADABLE in evaluation if the image
            cannot be read.
        index: index in the set.
        unreadable: path of the image of the sample's key if it could not be read or transformed; else empty. Other
            images that were skipped are not in it, because they are reported with their own keys.
        normalization: (2, C) mean and standard deviation, if the image is uint8.
        rectangle: to erase after normalization, if the image is uint8.
    """

    image: Tensor
    label: int | Tensor
    index: int
    unreadable: tuple[str, ...]
    normalization: Tensor | None = None
    rectangle: Rectangle | None = None


class ImageDataset(Dataset):
    """Labeled images.

    Args:
        samples: (path, label) pairs.
        classes: class names by label.
        transform: PIL image in RGB -> normalized tensor (C, H, W), or `Augmented`. One with `reads_files` gets the
            encoded image. Its random draws are a function of the sample's key. An exception in it makes the image
            unreadable.
        seed: of the augmentation.
        training: an unreadable image is replaced by the next readable one, with the label of that one. False, for
            evaluation: it is returned as zeros with the label -1.

    Attributes:
        base: common beginning of all paths, not part of the fingerprint.
        source: encoded images by index; None: the paths are files.
        notes: information about the set for the user, one line each.
        targets: (images, classes) bool, all labels of each image in multi-label data; `samples` has one of them.
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
        transform: Callable[..., Tensor | Augmented] | None = None,
        seed: int = 0,
        training: bool = True,
    ) -> None:
        self.samples = samples if isinstance(samples, SampleList) else SampleList(samples)
        self.classes = list(classes)
        self.transform = transform
        self.seed = seed
        self.training = training

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, key: SampleKey) -> Sample:
        """Return the sample of `key`, the same in every process and at any time.

        Raises:
            UserError: too many consecutive unreadable images.
            OSError: the system lacks file descriptors or memory.
        """

        def transformed(index: int) -> Tensor | Augmented:
            try:
                image = self._untransformed(index)
                with keyed_randomness("sample", self.seed, key.epoch, key.index, key.repeat):
                    return self.transform(image)
            except UserError:
                raise
            except Exception as error:  # of this sample only: damaged files raise many types, also MemoryError
                raise image_error(self.samples[index][0], error) from error

        try:
            if not self.training:
                return self._sample(transformed(key.index), self._label(key.index), key.index)
            result, index, unreadable = first_readable(transformed, key.index, len(self))
            return self._sample(result, self._label(index), index, unreadable)
        except UnreadableImage as error:
            return self._sample(self._blank(), self._no_label(), key.index, (error.path,))

    def _untransformed(self, index: int) -> str | bytes | Image.Image:
        """Return the input of the transform: the encoded image, or the decoded one."""
        if getattr(self.transform, "reads_files", False) and type(self).read is ImageDataset.read:
            return self.encoded(index)
        return self.read(index)

    def _label(self, index: int) -> int | Tensor:
        """Return the label of the image at `index`, see `Sample`."""
        if self.targets is None:
            return self.samples[index][1]
        return torch.from_numpy(self.targets[index].astype(np.int8))

    def _no_label(self) -> int | Tensor:
        """Return the label of an image that could not be read."""
        if self.targets is None:
            return UNREADABLE
        return torch.full((len(self.classes),), UNREADABLE, dtype=torch.int8)

    def _sample(
        self, image: Tensor | Augmented, label: int | Tensor, index: int, unreadable: tuple[str, ...] = ()
    ) -> Sample:
        if not isinstance(image, Augmented):
            return Sample(image, label, index, unreadable)
        further = {"normalization": self.transform.normalization, "rectangle": image.rectangle}
        return Sample(image.image, label, index, unreadable, **further)

    def class_counts(self) -> np.ndarray:
        """Number of images of each class, (classes,) int64."""
        if self.targets is not None:
            return self.targets.sum(0, dtype=np.int64)
        return np.bincount(self.samples.labels, minlength=len(self.classes))

    def fingerprint(self) -> str:
        """Hash of the class and name of every image, as 16 hexadecimal digits; of all its labels in multi-label data.

        It does not depend on the root folder or the storage format. Image contents are not read.
        """
        digest = hashlib.blake2b(digest_size=8)
        for index, (path, label) in enumerate(self.samples):
            name = self.classes[label] if self.targets is None else ""
            digest.update(f"{name}\0{sample_key(path, self.base, name)}\n".encode())
            if self.targets is not None:
                digest.update(np.packbits(self.targets[index]).tobytes())
        return digest.hexdigest()

    def storage_order(self) -> np.ndarray:
        """Indices of the images in storage order, (number of images,)."""
        return np.arange(len(self)) if self.source is None else self.source.storage_order()

    def read_ahead(self, indices: np.ndarray) -> None:
        """Ask the system to read these images into its cache, if they are in archives."""
        if isinstance(self.source, ReadsAhead):
            self.source.read_ahead(indices)

    def encoded(self, index: int) -> str | bytes:
        """Return the path of the image file at `index`, or its content if it is inside another file.

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
        except Exception as error:  # an archive that was truncated, replaced or unmounted
            raise image_error(name, error) from error
        return read_rgb(encoded, name)

    def _blank(self) -> Tensor | Augmented:
        """Return zeros in the shape of a transformed image."""
        with keyed_randomness("blank"):
            transformed = self.transform(Image.new("RGB", (32, 32)))
        if isinstance(transformed, Augmented):
            return Augmented(torch.zeros_like(transformed.image), Rectangle())
        return torch.zeros_like(transformed)
