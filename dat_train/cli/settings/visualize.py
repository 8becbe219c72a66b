"""Settings of dat-visualize."""

from dataclasses import dataclass
from typing import Any

from dat_train.cli.settings.limits import POSITIVE
from dat_train.cli.settings.setting import score_setting, setting
from dat_train.cli.settings.trained_model import RunningModelConfig


@dataclass
class VisualizeConfig(RunningModelConfig):
    image: str = setting("image file, folder of images, or quoted pattern", path=True)
    query: list[Any] | None = setting(
        "pixel [x,y] whose attention is drawn, or [[x,y],...]: of the model's input; of the image for segmentation and "
        "detection; null: the most attended pixels",
        default=None,
    )
    score: float = score_setting()
    pictures: bool = setting("write the pictures (PNG)")
    page: bool = setting("write attention.html, an interactive page that needs no network")
    most_images: int = setting("of a folder; the others are left out", POSITIVE)
    output: str | None = setting(
        "folder for the results, with a folder for each image; null: visualize/ in the run's folder, or ./visualize",
        default=None,
        path=True,
    )
