"""Limits on the values of settings beyond their type."""

import re
from collections.abc import Callable
from pathlib import PurePath
from typing import Any, NamedTuple

from dat_train import choices


class Limit(NamedTuple):
    """A condition on a value, and its text after "key=value" in an error."""

    fits: Callable[[Any], bool]
    text: str


POSITIVE = Limit(lambda value: value > 0, "must be greater than 0")
NOT_NEGATIVE = Limit(lambda value: value >= 0, "must not be negative")
SHARE = Limit(lambda value: 0 <= value <= 1, "must be between 0 and 1")
ABOVE_ZERO = Limit(lambda value: 0 < value <= 1, "must be greater than 0 and at most 1")
BELOW_ONE = Limit(lambda value: 0 <= value < 1, "must be at least 0 and less than 1")
PAIR = Limit(lambda value: len(value) == 2 and 0 < value[0] <= value[1], "must be two numbers, as in [0.5,1.0]")
BETAS = Limit(lambda value: len(value) == 2 and all(0 <= beta < 1 for beta in value), "must be two numbers below 1")
SIZES = Limit(lambda value: value and all(v > 0 for v in value), "must be numbers greater than 0, as in [192,224]")
EPOCHS = Limit(lambda value: all(v > 0 for v in value), "must be epochs, as in [30,60,90]")
CHANNELS = Limit(
    lambda value: len(value) in (1, 3) and all(v >= 0 for v in value),
    "must be three numbers: R, G, B; or one, for grayscale",
)
COLOR = Limit(
    lambda value: len(value) == 3 and all(0 <= v <= 255 for v in value), "must be three numbers from 0 to 255: R, G, B"
)
DEVICE = Limit(lambda value: re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", value), "must be auto, cpu, cuda, cuda:N or mps")
FOLDER = Limit(
    lambda value: PurePath(value).parts and not PurePath(value).is_absolute() and ".." not in PurePath(value).parts,
    "must be a folder's name; runs_dir is the folder it is in",
)


def one_of(*names: str) -> Limit:
    """Limit to one of these words, which --help lists."""
    return Limit(names.__contains__, f"must be one of {', '.join(names)}")


DTYPE = one_of(*choices.DTYPES)
KERNELS = one_of(*choices.KERNELS)
RESIZE = one_of(*choices.RESIZE)
INTERPOLATION = one_of("bicubic", "bilinear", "nearest")
SAMPLING = one_of("uniform", "balanced")
SHUFFLE = one_of("full", "blocks")
SPLIT_BY = one_of("name", "order")
DENSE_KINDS = dict.fromkeys((*choices.SEGMENTATION_KINDS, *choices.DETECTION_KINDS))  # one is in both
KIND = one_of(*choices.CLASSIFICATION_KINDS, *DENSE_KINDS)
DENSE_HEAD = one_of(*choices.DECODERS, *choices.DETECTORS)
SCHEDULE = one_of(*choices.SCHEDULES)
DISTILLATION = one_of(*choices.DISTILLATION)
AVERAGE = one_of("uniform", "greedy")
LOSS = one_of(*choices.LOSSES)
CLASS_WEIGHTS = one_of("balanced")
TASK = one_of(*choices.TASKS)
