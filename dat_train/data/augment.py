"""Image transforms for training and evaluation."""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from timm.data import create_transform
from timm.data.auto_augment import AugmentOp, AugMixAugment, AutoAugment, RandAugment
from timm.data.transforms import str_to_interp_mode, str_to_pil_interp
from torch import Tensor
from torchvision import transforms

from dat_train.choices import RESIZE
from dat_train.data.crops import RandomResizedCrop
from dat_train.data.erasing import Rectangle, draw_rectangle
from dat_train.data.fast_operations import FAST_OPERATIONS
from dat_train.data.images import WHITE, Source, read_rgb
from dat_train.errors import UserError, require_one_of

MAX_RESIZED_PIXELS = 2**24  # if the whole resized image would have more, only the visible part is resized


class Augmented(NamedTuple):
    """Augmented image (C, H, W), uint8, and the rectangle to erase after normalization."""

    image: Tensor
    rectangle: Rectangle


class TrainTransform:
    """DeiT's augmentation with timm's operations: crop, flip, RandAugment or color jitter, random erasing.

    Returns 8-bit pixels; `batch.prepare_images` normalizes them and adds the noise of random erasing on the device.
    Random numbers come from the global generators, see `keyed_randomness`.

    Args:
        crop: reads an image and returns a crop (3, H, W), uint8.
        flips: transforms of a tensor.
        operations: transforms of a PIL image, such as those of RandAugment.
        random_erasing: probability.
        mean, std: of three channels, or of one: images are then converted to grayscale after the operations.
    """

    reads_files = True

    def __init__(
        self,
        crop: RandomResizedCrop,
        *,
        flips: Sequence[Callable[[Tensor], Tensor]] = (),
        operations: Sequence[Callable[[Image.Image], Image.Image]] = (),
        random_erasing: float = 0.0,
        mean: Sequence[float],
        std: Sequence[float],
    ) -> None:
        self.crop = crop
        self.flips = list(flips)
        self.operations = list(operations)
        self.random_erasing = random_erasing
        self.normalization = torch.tensor([list(mean), list(std)], dtype=torch.float32)  # (2, C)

    def __call__(self, image: Source | Image.Image) -> Augmented:
        """Augment an image, given as a path, encoded bytes, a binary file or a PIL image in RGB."""
        return self.augment(self.crop(image))

    def augment(self, pixels: Tensor) -> Augmented:
        """Augment a crop (3, H, W), uint8."""
        for flip in self.flips:
            pixels = flip(pixels)
        gray = self.normalization.shape[1] == 1
        if self.operations or gray:
            edited = Image.fromarray(pixels.permute(1, 2, 0).numpy())
            for operation in self.operations:
                edited = operation(edited)
            array = np.array(edited.convert("L"))[..., None] if gray else np.array(edited)
            pixels = torch.from_numpy(array).permute(2, 0, 1)
        rectangle = Rectangle()
        if self.random_erasing:
            rectangle = draw_rectangle(self.random_erasing, *pixels.shape[1:])
        return Augmented(pixels, rectangle)


def train_transform(
    image_size: int,
    *,
    scale: Sequence[float] | None = (0.08, 1.0),
    ratio: Sequence[float] = (3 / 4, 4 / 3),
    interpolation: str = "bicubic",
    hflip: float = 0.5,
    vflip: float = 0.0,
    rand_augment: str | None = None,
    color_jitter: float = 0.0,
    random_erasing: float = 0.0,
    background: Sequence[int] = WHITE,
    mean: Sequence[float],
    std: Sequence[float],
) -> TrainTransform:
    """Build the training transform.

    Args:
        image_size: side of the result, pixels.
        scale: range of the crop's area; None resizes the whole image to a square instead of cropping.
        rand_augment: timm's policy, for example "rand-m9-mstd0.5-inc1", or "3a" for DeiT III's three-augment
            (grayscale, solarization or blur). Color jitter is off with every policy but "3a", as in timm.
        random_erasing: probability; erased rectangles get noise per pixel.
        background: R, G, B (0 to 255) behind transparent pixels.
        mean, std: of three channels, or of one: images are then converted to grayscale.

    Raises:
        UserError: a policy that does not exist in timm.
    """
    try:
        steps = create_transform(
            image_size,
            is_training=True,
            interpolation=interpolation,
            hflip=hflip,
            vflip=vflip,
            auto_augment=rand_augment,
            color_jitter=color_jitter or None,
            mean=tuple(mean),
            std=tuple(std),
            use_prefetcher=True,  # without normalization
        ).transforms[1:-1]  # between the crop and the conversion to a tensor
    except (AssertionError, ValueError, KeyError) as error:
        raise UserError(f"augment.rand_augment={rand_augment} is not a policy of timm: {error}") from error
    flips = [
        step for step in steps if isinstance(step, transforms.RandomHorizontalFlip | transforms.RandomVerticalFlip)
    ]
    operations = [step for step in steps if step not in flips]
    for step in operations:
        for operation in _policy_operations(step):
            operation.aug_fn = FAST_OPERATIONS.get(operation.aug_fn, operation.aug_fn)
        keep_posterize_bits(step)
    return TrainTransform(
        RandomResizedCrop(image_size, scale, ratio, interpolation, background),
        flips=flips,
        operations=operations,
        random_erasing=random_erasing,
        mean=mean,
        std=std,
    )


def _policy_operations(step: object) -> list[AugmentOp]:
    """Return the operations of one of timm's policies; an empty list for other steps."""
    if isinstance(step, AutoAugment):
        return [operation for pair in step.policy for operation in pair]
    return step.ops if isinstance(step, RandAugment | AugMixAugment) else []


def keep_posterize_bits(step: object) -> None:
    """Keep at least one bit in Posterize: with zero bits, Pillow 12 makes a black image and Pillow 13 raises."""
    for operation in _policy_operations(step):
        if operation.name.startswith("Posterize"):
            operation.level_fn = functools.partial(_at_least_one_bit, operation.level_fn)


def _at_least_one_bit(level_fn: Callable, level: float, hparams: dict) -> tuple[int]:
    return (max(1, level_fn(level, hparams)[0]),)


class EvalTransform:
    """Evaluation transform: resize, center crop and normalization, as torchvision's transforms of PIL images.

    Args:
        image_size: side of the crop, pixels.
        side: pixels to resize to.
        squash: resize to a square of that side; otherwise the short side is resized to it.
    """

    reads_files = True

    def __init__(
        self,
        image_size: int,
        side: int,
        squash: bool,
        interpolation: str,
        *,
        background: Sequence[int] = WHITE,
        mean: Sequence[float],
        std: Sequence[float],
    ) -> None:
        self.image_size = image_size
        self.side = side
        self.squash = squash
        self.interpolation = interpolation
        self.background = tuple(background)
        self.resize = transforms.Resize((side, side) if squash else side, str_to_interp_mode(interpolation))
        self.crop = transforms.CenterCrop(image_size)
        self.finish = transforms.Compose(
            [
                transforms.ToTensor(),
                transforms.Normalize(list(mean), list(std)),
            ]
        )
        self.gray = len(mean) == 1

    def __call__(self, image: Source | Image.Image) -> Tensor:
        """Return an image (C, image_size, image_size), float32, normalized.

        Args:
            image: a path, encoded bytes, a binary file, or a PIL image in RGB.

        Raises:
            UnreadableImage
        """
        if not isinstance(image, Image.Image):
            image = read_rgb(image, background=self.background)
        image = image.convert("L") if self.gray else image  # first, as in preprocessing.json
        return self.finish(self._visible(image))

    def _visible(self, image: Image.Image) -> Image.Image:
        """Resize and crop. Of a very long or tall image, only the visible part is resized, to limit the memory."""
        width, height = self._resized(*image.size)
        if width * height <= MAX_RESIZED_PIXELS:
            return self.crop(self.resize(image))
        size = self.image_size
        left, top = round((width - size) / 2), round((height - size) / 2)  # as CenterCrop
        x, y = image.width / width, image.height / height
        box = (left * x, top * y, (left + size) * x, (top + size) * y)
        return image.resize((size, size), str_to_pil_interp(self.interpolation), box=box)

    def _resized(self, width: int, height: int) -> tuple[int, int]:
        """Return width and height of the whole resized image, as torchvision's Resize computes them."""
        if self.squash:
            return self.side, self.side
        if width <= height:
            return self.side, int(self.side * height / width)
        return int(self.side * width / height), self.side


def eval_transform(
    image_size: int,
    *,
    resize: str = "short_side",
    crop_pct: float = 0.875,
    interpolation: str = "bicubic",
    background: Sequence[int] = WHITE,
    mean: Sequence[float],
    std: Sequence[float],
) -> EvalTransform:
    """Build the evaluation transform.

    Args:
        resize: "short_side" resizes the short side to image_size / crop_pct and keeps the aspect ratio (timm,
            torchvision); "squash" resizes to a square of that side and changes the aspect ratio (the DAT authors).
        crop_pct: side of the crop over the resized side; 1: a square image is not cropped.
        background, mean, std: as in `train_transform`.

    Raises:
        UserError: another value of `resize`.
    """
    require_one_of("eval.resize", resize, RESIZE)
    side = resized_side(image_size, crop_pct)
    return EvalTransform(image_size, side, resize == "squash", interpolation, background=background, mean=mean, std=std)


def resized_side(image_size: int, crop_pct: float) -> int:
    """Side to resize to, pixels, so that the center crop of `image_size` is `crop_pct` of it."""
    return int(image_size / crop_pct + 1e-6)  # 384 / (384 / 438) is 438, not 437.99
