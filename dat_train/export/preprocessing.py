"""Preprocessing of an exported model's images, as JSON and as timm's data configuration."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from dat_train.data.augment import resized_side
from dat_train.errors import UserError

COLOR_MODES = {1: "L", 3: "RGB"}  # number of channels -> Pillow's mode


@dataclass(frozen=True)
class Preprocessing:
    """The evaluation transform (`eval_transform` in data/augment.py) as numbers.

    Args:
        img_size: side of the model's input, pixels.
        resize: "short_side" or "squash".
        crop_pct: side of the center crop divided by the resized side.
        interpolation: "bicubic", "bilinear" or "nearest".
        mean, std: of each channel, in [0, 1]: three values (RGB) or one (grayscale).

    Raises:
        UserError: another number of channels.
    """

    img_size: int
    resize: str
    crop_pct: float
    interpolation: str
    mean: Sequence[float]
    std: Sequence[float]

    def __post_init__(self) -> None:
        if len(self.mean) not in COLOR_MODES or len(self.mean) != len(self.std):
            raise UserError(
                f"data.mean has {len(self.mean)} values and data.std {len(self.std)}; images have 3 channels (RGB) or "
                "1 (grayscale)"
            )

    @property
    def color_mode(self) -> str:
        """Pillow's mode of the images: RGB or L."""
        return COLOR_MODES[len(self.mean)]

    @property
    def input_size(self) -> tuple[int, int, int]:
        """(C, H, W) of the model's input."""
        return len(self.mean), self.img_size, self.img_size

    def as_json(self, classes: Sequence[str], activation: str = "softmax") -> str:
        """The steps in order, independent of the programming language, and the class names.

        Args:
            activation: function from logits to probabilities, "softmax" or "sigmoid".
        """
        side = resized_side(self.img_size, self.crop_pct)
        text = json.dumps(
            {
                "input": {"name": "images", "dtype": "float32", "shape": ["batch", *self.input_size]},
                "output": {
                    "name": "logits",
                    "dtype": "float32",
                    "shape": ["batch", len(classes)],
                    "probabilities": activation,
                },
                "channels": self.color_mode,
                "grayscale": self.color_mode == "L",
                "resize": {
                    "keep_aspect_ratio": self.resize == "short_side",
                    "short_side" if self.resize == "short_side" else "both_sides": side,
                    "interpolation": self.interpolation,
                    "antialias": True,
                },
                "center_crop": self.img_size,
                "divide_by": 255,
                "then_subtract_mean": list(self.mean),
                "then_divide_by_std": list(self.std),
                "classes": list(classes),
            },
            indent=2,
            ensure_ascii=False,
        )
        return text.encode("utf-8", "backslashreplace").decode()  # undecodable bytes of a name as JSON's \udcNN

    def as_timm(self) -> dict:
        """The same steps with the keys of timm's `data_config`; timm's transform then gives equal tensors."""
        side = resized_side(self.img_size, self.crop_pct)
        return {
            "input_size": self.input_size,
            "crop_pct": _timm_crop_pct(self.img_size, side),
            "crop_mode": "center" if self.resize == "short_side" else "squash",
            "interpolation": self.interpolation,
            "mean": tuple(self.mean),
            "std": tuple(self.std),
        }


def _timm_crop_pct(img_size: int, side: int) -> float:
    """A crop_pct for which timm computes `side`. timm rounds img_size / crop_pct down: 384 / 438 would give 437."""
    crop_pct = img_size / side
    return crop_pct if int(img_size / crop_pct) == side else img_size / (side + 0.5)
