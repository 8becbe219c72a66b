"""Settings of segmentation and detection."""

from dataclasses import dataclass

from dat_train.cli.settings.limits import ABOVE_ZERO, BELOW_ONE, DENSE_HEAD, NOT_NEGATIVE, PAIR, POSITIVE, SIZES
from dat_train.cli.settings.setting import setting


@dataclass
class DenseConfig:
    """Model, augmentation and evaluation of dense tasks; classification uses none of them."""

    head: str | None = setting("segmentation: decoder; detection: detector", DENSE_HEAD, default=None)
    channels: int | None = setting(
        "width of decoder or detector; null: as published (512 upernet, 128 semantic_fpn, 256 detectors)",
        POSITIVE,
        default=None,
    )
    dropout: float | None = setting(
        "segmentation: share of channels dropped before the classifier", BELOW_ONE, default=None
    )
    aux_weight: float | None = setting(
        "segmentation: weight of the auxiliary loss (upernet)", NOT_NEGATIVE, default=None
    )
    class_weights: list[float] | None = setting(
        "segmentation: weight of each class in the loss, in the order of the classes; null: 1", SIZES, default=None
    )
    limits: list[int] | None = setting("long and short side into which an image is fitted, pixels", SIZES, default=None)
    ratio: list[float] | None = setting("segmentation training: range of the factor on limits", PAIR, default=None)
    max_share: float | None = setting(
        "segmentation training: largest share of a class in a crop", ABOVE_ZERO, default=None
    )
    photometric: bool | None = setting("segmentation training: distort brightness, contrast and colors", default=None)
    short_sides: list[int] | None = setting("detection training: short sides to draw from, pixels", SIZES, default=None)
    crop_short_sides: list[int] | None = setting(
        "detection training: short sides before a crop, pixels; null: no crops", SIZES, default=None
    )
    crop_sides: list[int] | None = setting("detection training: range of a crop's sides, pixels", PAIR, default=None)
    scales: list[float] | None = setting(
        "segmentation evaluation: factors on limits whose probabilities are averaged", SIZES, default=None
    )
    flip: bool | None = setting("segmentation evaluation: average with the mirror image", default=None)
