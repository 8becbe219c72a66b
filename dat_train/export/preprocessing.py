"""What has to happen to an image before an exported model sees it, so that nobody has to guess."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from dat_train.data.augment import resized_side


@dataclass(frozen=True)
class Preprocessing:
    """The evaluation transform as numbers (`eval_transform` in data/augment.py does it).

    Args:
        img_size: side of the model's input, pixels.
        resize: "short_side" or "squash".
        crop_pct: side of the centre crop over the resized side.
        interpolation: "bicubic", "bilinear" or "nearest".
        mean, std: of the channels R, G, B, in [0, 1].
    """

    img_size: int
    resize: str
    crop_pct: float
    interpolation: str
    mean: Sequence[float]
    std: Sequence[float]

    def as_json(self, classes: Sequence[str]) -> str:
        """The steps in order, in words and numbers any language can read, and the class names."""
        side = resized_side(self.img_size, self.crop_pct)
        return json.dumps(
            {
                "input": {"name": "images", "dtype": "float32", "shape": ["batch", 3, self.img_size, self.img_size]},
                "output": {"name": "logits", "dtype": "float32", "shape": ["batch", len(classes)]},
                "channels": "RGB",
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

    def as_timm(self) -> dict:
        """The same in the keys of timm's `data_config`; timm's transform then does exactly what ours does."""
        side = resized_side(self.img_size, self.crop_pct)
        return {
            "input_size": (3, self.img_size, self.img_size),
            "crop_pct": _for_timm(self.img_size, side),
            "crop_mode": "center" if self.resize == "short_side" else "squash",
            "interpolation": self.interpolation,
            "mean": tuple(self.mean),
            "std": tuple(self.std),
        }


def _for_timm(img_size: int, side: int) -> float:
    """A crop_pct from which timm, which rounds img_size / crop_pct down, gets `side`: 384/438 itself gives it 437."""
    crop_pct = img_size / side
    return crop_pct if int(img_size / crop_pct) == side else img_size / (side + 0.5)
