"""The settings of dat-visualize."""

from dataclasses import dataclass, field
from typing import Any

from dat_train.config.evaluation import EvalModelConfig, EvalViewConfig, ImagesConfig
from dat_train.config.limits import DEVICE, POSITIVE
from dat_train.config.setting import setting


@dataclass
class VisualizeConfig:
    ckpt: str = setting("checkpoint, exported folder, safetensors file or released weights")
    image: str = setting("image file, folder of images, or quoted pattern")
    query: list[Any] | None = setting(
        "pixel [x,y] of the model's input whose attention is drawn, or [[x,y],...]; null: the most attended spots",
        default=None,
    )
    pictures: bool = setting("write the pictures (PNG)")
    page: bool = setting("write look.html, which needs no network")
    most_images: int = setting("of a folder; the others are left out", POSITIVE)
    output: str | None = setting(
        "folder of a folder for each image; null: looking/ in the run's folder, or ./looking", default=None
    )
    model: EvalModelConfig = field(default_factory=EvalModelConfig)
    data: ImagesConfig = field(default_factory=ImagesConfig)
    img_size: int | None = setting("resolution, pixels; null: as in training", POSITIVE, default=None)
    eval: EvalViewConfig = field(default_factory=EvalViewConfig)
    ema: bool | None = setting("averaged weights (true), plain ones (false); null: averaged if any", default=None)
    device: str = setting("auto: the GPU if there is one; cpu, cuda or mps", DEVICE)
