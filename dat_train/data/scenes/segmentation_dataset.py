"""Images with label maps, decoded and augmented by key."""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors

from dat_train.data.batch import SceneList
from dat_train.data.images import UnreadableImage, first_readable, image_error, open_image, printable, read_rgb
from dat_train.data.micro_batches import SampleKey
from dat_train.data.randomness import keyed_randomness
from dat_train.data.sample_list import SampleList
from dat_train.data.scenes.dense_transforms import IGNORED, Normalized, scaled_views
from dat_train.errors import UserError


class LabelEncoding(NamedTuple):
    """Meaning of the values in a mask file.

    Args:
        first: value of the first class; smaller values are ignored (ADE20K: 1, so that 0 is ignored).
        classes: number of classes; larger values are errors, except an ignored 255.
        ignores_255: a value 255 is allowed and ignored.
    """

    first: int
    classes: int
    ignores_255: bool = True

    def decode(self, values: np.ndarray, path: str) -> np.ndarray:
        """Labels uint8 of mask values: 0 to classes - 1, 255 ignored.

        Raises:
            UserError: a value without a class.
        """
        found = np.bincount(values.ravel(), minlength=256).nonzero()[0]
        last = self.first + self.classes - 1
        wrong = [int(v) for v in found if v > last and not (v == IGNORED and self.ignores_255)]
        if wrong:
            raise UserError(self._explain(wrong[-1], last, path))
        table = np.full(256, IGNORED, np.uint8)
        table[self.first : last + 1] = np.arange(self.classes)
        return table[values]

    def _explain(self, value: int, last: int, path: str) -> str:
        where = f"{printable(path)} has the value {value}"
        if value == IGNORED and not self.ignores_255:
            return (
                f"{where}: the labels were already shifted by one (0 became 255); use the published PNG files, "
                f"in which 0 is ignored and the classes are {self.first} to {last}"
            )
        if value == last + 1:
            return (
                f"{where}, one more than the {self.classes} classes allow ({self.first} to {last}): is 'other' or the "
                "background counted as a class? Number the classes as in the class list"
            )
        return f"{where}; the {self.classes} classes have the values {self.first} to {last}"


class Scene(NamedTuple):
    """Training sample: image (3, H, W) float32, labels (H, W) int64, index in the set, own path if it is unreadable."""

    image: Tensor
    labels: Tensor
    index: int
    unreadable: tuple[str, ...]


class SceneBatch(NamedTuple):
    """Images (B, 3, H, W), labels (B, H, W) int64 with 255 for ignored pixels, and unreadable paths."""

    images: Tensor
    labels: Tensor
    unreadable: list[str]

    def pin_memory(self) -> "SceneBatch":
        return SceneBatch(self.images.pin_memory(), self.labels.pin_memory(), self.unreadable)


class SegmentationImages(Dataset):
    """Image files with label maps.

    Args:
        samples: (image path, mask path) pairs.
        classes: names by label.
        encoding: meaning of the mask values.
        transform: (tv Image, tv Mask) -> the same; its random draws are a function of the sample's key.
        seed: key of the augmentation.
        notes: information about the set for the user, one line each.
    """

    def __init__(
        self,
        samples: Iterable[tuple[str, str]],
        classes: Sequence[str],
        encoding: LabelEncoding,
        transform: Callable | None = None,
        seed: int = 0,
        *,
        notes: Sequence[str] = (),
    ) -> None:
        samples = list(samples)
        self.samples = SampleList((image, 0) for image, _ in samples)
        self.masks = SampleList((mask, 0) for _, mask in samples)
        self.classes = list(classes)
        self.encoding = encoding
        self.transform = transform
        self.seed = seed
        self.notes = tuple(notes)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, key: SampleKey) -> Scene:
        """The augmented sample of `key`; the next readable image replaces an unreadable one.

        Raises:
            UserError: too many consecutive unreadable images, or a mask that does not fit its image.
        """
        (image, labels), index, unreadable = first_readable(self.read_both, key.index, len(self))
        with keyed_randomness("sample", self.seed, key.epoch, key.index, key.repeat):
            picture, mask = self.transform(tv_tensors.Image(image), tv_tensors.Mask(torch.from_numpy(labels)))
        return Scene(picture.as_subclass(Tensor), mask.as_subclass(Tensor).long(), index, unreadable)

    @staticmethod
    def collate(scenes: Sequence[Scene]) -> SceneBatch:
        images, labels = (torch.stack([scene[part] for scene in scenes]) for part in (0, 1))
        return SceneBatch(images, labels, [path for scene in scenes for path in scene.unreadable])

    def read(self, index: int) -> Image.Image:
        """The image at `index`, RGB, upright.

        Raises:
            UnreadableImage
        """
        return read_rgb(self.samples[index][0])

    def read_labels(self, index: int) -> np.ndarray:
        """Label map (H, W) uint8 of the image at `index`, 255 ignored.

        Raises:
            UnreadableImage; UserError: a mask that is not an 8-bit picture, or has values without a class.
        """
        path = self.masks[index][0]
        return self.encoding.decode(read_mask(path), path)

    def read_both(self, index: int) -> tuple[Image.Image, np.ndarray]:
        """The image at `index` and its label map.

        Raises:
            UnreadableImage; UserError: a mask of another size than its image, or as in `read_labels`.
        """
        image = self.read(index)
        return image, self.labels_of(index, image)

    def labels_of(self, index: int, image: Image.Image) -> np.ndarray:
        """Label map of the image at `index`, compared with its size.

        Raises:
            UnreadableImage, UserError: as in `read_both`.
        """
        labels = self.read_labels(index)
        if labels.shape != (image.height, image.width):
            raise UserError(
                f"{printable(self.masks[index][0])} is {labels.shape[1]} x {labels.shape[0]} pixels, its image "
                f"{printable(self.samples[index][0])} {image.width} x {image.height} (upright): they must be the same"
            )
        return labels

    def fingerprint(self) -> str:
        """Hash of the file names of all images, as 16 hexadecimal digits. Folders and contents are not included."""
        digest = hashlib.blake2b(digest_size=8)
        for path, _ in self.samples:
            digest.update(f"{Path(path).name}\n".encode("utf-8", "surrogateescape"))
        return digest.hexdigest()


class EvaluationScene(NamedTuple):
    """Evaluation sample: views of the image (3, h, w), label map (H, W) at original size, index, unreadable paths.

    An unreadable image has no views.
    """

    views: list[Tensor]
    labels: Tensor
    index: int
    unreadable: tuple[str, ...]


class EvaluationImages(Dataset):
    """Images of a set, each at one or several scales, with label maps at original size.

    Args:
        images: the set.
        limits: (long side, short side) into which an image is fitted at scale 1.
        scales: factors of the limits.
        mean, std: of the image's channels.
    """

    collate = SceneList

    def __init__(
        self,
        images: SegmentationImages,
        *,
        limits: Sequence[int],
        scales: Sequence[float] = (1.0,),
        mean: Sequence[float],
        std: Sequence[float],
    ) -> None:
        self.images = images
        self.limits = tuple(limits)
        self.scales = tuple(scales)
        self.normalized = Normalized(mean, std)
        self.classes = images.classes
        self.samples, self.notes = images.samples, images.notes

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, key: SampleKey) -> EvaluationScene:
        try:
            image, labels = self.images.read_both(key.index)
        except UnreadableImage as error:
            return EvaluationScene([], torch.empty(0, 0, dtype=torch.uint8), key.index, (error.path,))
        return EvaluationScene(self.views(image), torch.from_numpy(labels), key.index, ())

    def views(self, image: Image.Image) -> list[Tensor]:
        """The image at every scale, normalized, (3, h, w) each."""
        return scaled_views(image, self.limits, self.scales, self.normalized)

    def fingerprint(self) -> str:
        return self.images.fingerprint()


def read_mask(path: str | Path) -> np.ndarray:
    """Values (H, W) uint8 of a mask file: grayscale values, or the indices of a palette.

    Raises:
        UnreadableImage: missing or damaged.
        UserError: a color picture or one with more than 8 bits.
    """
    try:
        with open_image(path) as mask:
            mask.load()
            mode, values = mask.mode, np.asarray(mask)
    except Exception as error:  # damaged files raise errors of many types
        raise image_error(path, error) from error
    if mode == "1":
        return values.astype(np.uint8)
    if mode not in ("L", "P"):
        raise UserError(
            f"{printable(path)} is a picture of mode {mode}, not 8-bit labels. The full ADE20K release encodes classes "
            "in colors: use ADEChallengeData2016 (150 classes); convert other masks to one 8-bit value a pixel"
        )
    return values
