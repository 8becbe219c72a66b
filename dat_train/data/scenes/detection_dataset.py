"""Images with boxes and masks, decoded and augmented by key; batches of different sizes, padded."""

import contextlib
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as F

from dat_train.data.batch import SceneList
from dat_train.data.images import UnreadableImage, first_readable, printable, read_rgb
from dat_train.data.micro_batches import SampleKey
from dat_train.data.randomness import keyed_randomness
from dat_train.data.sample_list import SampleList
from dat_train.data.scenes.coco import CocoFile, Objects, check_size
from dat_train.data.scenes.dense_transforms import Normalized, chance, fitted_size, randint, uniform
from dat_train.errors import UserError

SHORT_SIDES = tuple(range(480, 801, 32))
CROP_SHORT_SIDES = (400, 500, 600)
LONG_SIDE = 1333
CHECKED = 8  # number of images that are read on opening, evenly spaced in the set


class DetectionScene(NamedTuple):
    """One image with its objects.

    Args:
        image: (3, H, W) float32, normalized, not padded.
        target: `boxes` (N, 4), `labels` (N,), `masks` (N, H, W) bool if wanted; `original`
            size (h, w); in evaluation `truth`, all annotations in the COCO format, crowds included.
        index: in the set.
        unreadable: path of the image of the sample's key if it could not be read; else empty.
    """

    image: Tensor
    target: dict[str, Any]
    index: int
    unreadable: tuple[str, ...]


class ObjectBatch(NamedTuple):
    """Images (B, 3, H, W) padded right and below, their sizes before padding, their objects, and unreadable paths."""

    images: Tensor
    sizes: list[tuple[int, int]]
    targets: list[dict[str, Any]]
    unreadable: list[str]


class DetectionImages(Dataset):
    """Images of an annotation file.

    Args:
        folder: of the images.
        file: annotations.
        records: images of the set.
        transform: (tv Image, boxes, masks or None, labels) -> the same, resized and augmented; its random draws are a
            function of the sample's key. The image is normalized afterwards.
        mean, std: of the image's channels.
        with_masks: targets have masks.
        training: an unreadable image is replaced by the next one. In evaluation an empty scene is returned.

    Attributes:
        notes: images and objects of the file that are not trained on, one line each.
    """

    def __init__(
        self,
        folder: Path,
        file: CocoFile,
        records: Sequence[dict],
        *,
        transform: Callable,
        mean: Sequence[float],
        std: Sequence[float],
        with_masks: bool = True,
        training: bool = True,
        seed: int = 0,
    ) -> None:
        self.file = file
        self.records = list(records)
        self.samples = SampleList((str(folder / record["file_name"]), 0) for record in self.records)
        self.classes = file.classes
        self.transform = transform
        self.normalized = Normalized(mean, std)
        self.with_masks = with_masks
        self.training = training
        self.seed = seed
        self.notes = file.notes() if training else []

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, key: SampleKey) -> DetectionScene:
        """Return the sample of `key`, the same in every process and at any time.

        Raises:
            UserError: too many consecutive unreadable images, or an image that does not fit its record.
        """
        if self.training:
            image, index, unreadable = first_readable(self.read, key.index, len(self))
            with keyed_randomness("sample", self.seed, key.epoch, key.index, key.repeat):
                return self._scene(index, image, unreadable)
        try:
            return self._scene(key.index, self.read(key.index), ())
        except UnreadableImage as error:
            return DetectionScene(torch.zeros(3, 32, 32), {"original": (0, 0)}, key.index, (error.path,))

    def _scene(self, index: int, image: Image.Image, unreadable: tuple[str, ...]) -> DetectionScene:
        record = self.records[index]
        size = (image.height, image.width)
        objects = self.file.usable(record)
        boxes = tv_tensors.BoundingBoxes(torch.from_numpy(objects.boxes), format="XYXY", canvas_size=size)
        boxes = F.clamp_bounding_boxes(boxes)
        masks = self._masks(index, objects, size) if self.with_masks and self.training else None
        picture, boxes, masks, labels = self.transform(
            tv_tensors.Image(image), boxes, masks, torch.from_numpy(objects.labels)
        )
        target: dict[str, Any] = {"boxes": boxes.as_subclass(Tensor), "labels": labels, "original": size}
        if not self.training:
            target["truth"] = self.file.truth(record)
        if masks is not None:
            target["masks"] = masks.as_subclass(Tensor).bool()
        return DetectionScene(self.normalized(picture).as_subclass(Tensor), target, index, unreadable)

    def collate(self, scenes: Sequence[DetectionScene]) -> ObjectBatch | SceneList:
        """Pad and stack the images of a training batch; those of an evaluation are not combined."""
        scenes = SceneList(scenes)
        if not self.training:
            return scenes
        images, sizes = pad_batch([scene.image for scene in scenes])
        return ObjectBatch(images, sizes, [scene.target for scene in scenes], scenes.unreadable)

    def _masks(self, index: int, objects: Objects, size: tuple[int, int]) -> tv_tensors.Mask:
        try:
            return tv_tensors.Mask(torch.from_numpy(objects.masks(*size)))
        except UserError as error:
            raise UserError(f"{self.file.path}, image {printable(self.samples[index][0])}: {error}") from None

    def read(self, index: int) -> Image.Image:
        """The image at `index`, RGB, of the size in its record.

        Raises:
            UnreadableImage, UserError
        """
        path = self.samples[index][0]
        image = read_rgb(path)
        check_size(path, (image.height, image.width), self.records[index])
        return image

    def check_some(self) -> None:
        """Read some images, evenly spaced in the set; unreadable ones are ignored, because the run counts them.

        Raises:
            UserError: an image that does not fit its record, or none of them exists.
        """
        chosen = range(0, len(self), max(1, len(self) // CHECKED))
        if chosen and not any(Path(self.samples[index][0]).exists() for index in chosen):
            raise UserError(
                f"{printable(self.samples[0][0])} does not exist, nor other images: file_name in {self.file.path.name} "
                "must be relative to their folder"
            )
        for index in chosen:
            with contextlib.suppress(UnreadableImage):
                self.read(index)

    def upright(self) -> np.ndarray:
        """(N,) bool: images that are not wider than high. A batch has images of one kind."""
        return np.array([record["width"] <= record["height"] for record in self.records])

    def fingerprint(self) -> str:
        """Hash of all file names, boxes and labels, as 16 hexadecimal digits. Folders and contents are not included."""
        digest = hashlib.blake2b(digest_size=8)
        for record in self.records:
            objects = self.file.usable(record)
            text = f"{record['file_name']}\0{objects.boxes.tolist()}\0{objects.labels.tolist()}\n"
            digest.update(text.encode("utf-8", "surrogateescape"))
        return digest.hexdigest()


@dataclass
class DetectionTrainTransform:
    """Augmentation as published for COCO: flip, then one of two policies with equal probability.

    The first resizes to a short side drawn from `short_sides`. The second resizes to one from `crop_short_sides`, crops
    with sides drawn from `crop_sides`, and then applies the first. The long side is at most `long_side`.

    Args:
        short_sides, crop_short_sides, long_side, crop_sides: pixels; no crop_short_sides: the first policy only.
        hflip: probability of mirroring.
    """

    short_sides: Sequence[int] = SHORT_SIDES
    crop_short_sides: Sequence[int] = CROP_SHORT_SIDES
    long_side: int = LONG_SIDE
    crop_sides: Sequence[int] = (384, 600)
    hflip: float = 0.5

    def __call__(self, image: Tensor, boxes: Tensor, masks: Tensor | None, labels: Tensor) -> tuple:
        if chance(self.hflip):
            image, boxes = F.horizontal_flip(image), F.horizontal_flip(boxes)
            masks = None if masks is None else F.horizontal_flip(masks)
        if self.crop_short_sides and chance():
            image, boxes, masks = resized(image, boxes, masks, self._draw(self.crop_short_sides), self.long_side)
            image, boxes, masks, labels = self._crop(image, boxes, masks, labels)
        image, boxes, masks = resized(image, boxes, masks, self._draw(self.short_sides), self.long_side)
        return image, boxes, masks, labels

    def _draw(self, sides: Sequence[int]) -> int:
        return sides[randint(len(sides))]

    def _crop(self, image: Tensor, boxes: Tensor, masks: Tensor | None, labels: Tensor) -> tuple:
        """Crop; boxes are clipped, and objects outside the crop are dropped."""
        height, width = image.shape[-2:]
        low, high = self.crop_sides
        rows, columns = (int(uniform(min(side, low), min(side, high) + 1 - 1e-6)) for side in (height, width))
        crop = (randint(height - rows + 1), randint(width - columns + 1), rows, columns)
        image, boxes = F.crop(image, *crop), F.clamp_bounding_boxes(F.crop(boxes, *crop))
        kept = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
        boxes = tv_tensors.wrap(boxes[kept], like=boxes)
        masks = None if masks is None else tv_tensors.Mask(F.crop(masks, *crop)[kept])
        return image, boxes, masks, labels[kept]


@dataclass
class DetectionEvalTransform:
    """Resize to a short side, the long side at most `long_side`, keeping the aspect ratio."""

    short_side: int = 800
    long_side: int = LONG_SIDE

    def __call__(self, image: Tensor, boxes: Tensor, masks: Tensor | None, labels: Tensor) -> tuple:
        return (*resized(image, boxes, masks, self.short_side, self.long_side), labels)


def resized(image: Tensor, boxes: Tensor, masks: Tensor | None, short: int, long: int) -> tuple:
    """Image (bilinear, no antialiasing), boxes and masks (nearest) fitted into (long, short)."""
    size = list(fitted_size(image.shape[-2:], (long, short)))
    image, boxes = F.resize(image, size, antialias=False), F.resize(boxes, size)
    return image, boxes, masks if masks is None else F.resize(masks, size)


def pad_batch(images: Sequence[Tensor], multiple: int = 32) -> tuple[Tensor, list[tuple[int, int]]]:
    """Images (3, h, w) padded right and below with zeros to common sides that are multiples of `multiple`.

    Returns:
        (B, 3, H, W) and the (height, width) of each image before padding.
    """
    sizes = [tuple(image.shape[-2:]) for image in images]
    height, width = (-(-max(size[axis] for size in sizes) // multiple) * multiple for axis in (0, 1))
    batch = images[0].new_zeros(len(images), 3, height, width)
    for padded, image in zip(batch, images, strict=True):
        padded[:, : image.shape[1], : image.shape[2]] = image
    return batch, sizes
