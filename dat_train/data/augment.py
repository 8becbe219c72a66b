"""What happens to an image between file and model: timm's and torchvision's transforms, from plain numbers."""

import functools
from collections.abc import Callable, Iterable, Sequence

from timm.data import create_transform
from timm.data.auto_augment import AugmentOp, AugMixAugment, AutoAugment, RandAugment
from timm.data.transforms import MaybeToTensor, str_to_interp_mode
from torchvision import transforms

from dat_train.errors import UserError


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
    mean: Sequence[float],
    std: Sequence[float],
) -> Callable:
    """DeiT's augmentation as timm builds it: crop, flip, RandAugment or colour jitter, normalise, erase.

    Args:
        scale: range of the crop's area; None resizes the whole image to a square instead of cropping.
        rand_augment: timm's policy; where there is one, colour jitter is off, as in timm.
        random_erasing: probability; erased rectangles get noise, per pixel.
        mean, std: of three channels; or of one, and images become greyscale after everything done to their colours.

    Returns:
        PIL image -> tensor (3 or 1, image_size, image_size). Draws from the global generators: see `keyed_randomness`.

    Raises:
        UserError: a policy timm does not know.
    """
    try:
        transform = create_transform(
            image_size,
            is_training=True,
            scale=tuple(scale) if scale else None,
            ratio=tuple(ratio),
            interpolation=interpolation,
            hflip=hflip,
            vflip=vflip,
            auto_augment=rand_augment,
            color_jitter=color_jitter or None,
            re_prob=random_erasing,
            re_mode="pixel",
            mean=tuple(mean),
            std=tuple(std),
        )
    except (AssertionError, ValueError, KeyError) as error:
        raise UserError(f"augment.rand_augment={rand_augment} is no policy timm knows: {error}") from error
    for step in transform.transforms:
        _keep_a_bit(_operations(step))
    if scale is None:
        square = transforms.Resize((image_size, image_size), interpolation=str_to_interp_mode(interpolation))
        transform.transforms[0] = square
    if len(mean) == 1:
        steps = transform.transforms
        steps.insert(next(i for i, step in enumerate(steps) if isinstance(step, MaybeToTensor)), transforms.Grayscale())
    return transform


def _operations(step: object) -> list[AugmentOp]:
    """What one of timm's policies may do to an image; nothing for other steps."""
    if isinstance(step, AutoAugment):
        return [operation for pair in step.policy for operation in pair]
    return step.ops if isinstance(step, RandAugment | AugMixAugment) else []


def _keep_a_bit(operations: Iterable[AugmentOp]) -> None:
    """Posterize to at least one bit: to none, Pillow 12 makes the image black and Pillow 13 raises an error."""
    for operation in operations:
        if operation.name.startswith("Posterize"):
            operation.level_fn = functools.partial(_at_least_one_bit, operation.level_fn)


def _at_least_one_bit(level_fn: Callable, level: float, hparams: dict) -> tuple[int]:
    return (max(1, level_fn(level, hparams)[0]),)


def eval_transform(
    image_size: int,
    *,
    resize: str = "short_side",
    crop_pct: float = 0.875,
    interpolation: str = "bicubic",
    mean: Sequence[float],
    std: Sequence[float],
) -> Callable:
    """Resize, crop the centre, normalise.

    Args:
        resize: "short_side" brings the short side to image_size / crop_pct and keeps the aspect ratio (timm,
            torchvision); "squash" resizes to a square of that side whatever the aspect ratio (the DAT authors).
        crop_pct: side of the crop over the resized side; 1 crops nothing of a square image.
        mean, std: as in `train_transform`.

    Returns:
        PIL image -> tensor (3 or 1, image_size, image_size).
    """
    side = resized_side(image_size, crop_pct)
    if resize not in ("short_side", "squash"):
        raise UserError(f"eval.resize={resize} is not possible; one of short_side, squash")
    return transforms.Compose(
        [
            *([transforms.Grayscale()] if len(mean) == 1 else []),  # first, as users of an exported model do it
            transforms.Resize(side if resize == "short_side" else (side, side), str_to_interp_mode(interpolation)),
            transforms.CenterCrop(image_size),
            transforms.ToTensor(),
            transforms.Normalize(mean, std),
        ]
    )


def resized_side(image_size: int, crop_pct: float) -> int:
    """Pixels to resize to, so that the centre crop of `image_size` is `crop_pct` of it."""
    return int(image_size / crop_pct + 1e-6)  # 384 / (384 / 438) is 438, not 437.99
