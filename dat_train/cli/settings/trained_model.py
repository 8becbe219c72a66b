"""Settings shared by the commands that use a trained model."""

import dataclasses
import typing
from dataclasses import dataclass, field

from dat_train.cli.settings.dense import DenseConfig
from dat_train.cli.settings.limits import DTYPE, POSITIVE
from dat_train.cli.settings.setting import device_setting, setting
from dat_train.cli.settings.train import DataConfig, ModelConfig, ValidationConfig


def _optional(schema: type, *names: str) -> type:
    """Settings of a schema that may be null, which means "as in the checkpoint"; all of them, or `names`."""
    hints = typing.get_type_hints(schema)
    items = []
    for item in dataclasses.fields(schema):
        if item.name in (names or hints):
            keep = item.default_factory is not dataclasses.MISSING  # a dict: empty means the same as null
            default = {"default_factory": item.default_factory} if keep else {"default": None}
            kind = hints[item.name] if keep else hints[item.name] | None
            items.append((item.name, kind, field(metadata=item.metadata, **default)))
    return dataclasses.make_dataclass(f"Optional{schema.__name__}", items)


OptionalModelConfig = _optional(ModelConfig)
OptionalDataConfig = _optional(DataConfig)
# of commands that get image files instead of a data set
ImagesConfig = _optional(DataConfig, "workers", "mean", "std", "background")
ViewConfig = _optional(ValidationConfig, "resize", "crop_pct", "interpolation")
SceneViewConfig = _optional(DenseConfig, "limits", "scales", "flip")


@dataclass
class TrainedModelConfig:
    """A trained model and the view it has of an image."""

    ckpt: str | None = setting(
        "checkpoint, folder of a run, exported folder or released weights; null: the published weights of model=NAME",
        path=True,
        default=None,
    )
    model: OptionalModelConfig = field(default_factory=OptionalModelConfig)
    data: ImagesConfig = field(default_factory=ImagesConfig)
    img_size: int | None = setting("resolution, pixels; null: as in training", POSITIVE, default=None)
    eval: ViewConfig = field(default_factory=ViewConfig)
    dense: SceneViewConfig = field(default_factory=SceneViewConfig)
    ema: bool | None = setting("averaged weights (true), plain ones (false); null: averaged if any", default=None)


@dataclass
class RunningModelConfig(TrainedModelConfig):
    """A trained model on a device."""

    device: str = device_setting()
    dtype: str | None = setting("auto: bf16 on CUDA, else fp32; null: as in training", DTYPE, default=None)


@dataclass
class EvaluatingConfig(RunningModelConfig):
    """A trained model that is evaluated on a data set."""

    data: OptionalDataConfig = field(default_factory=OptionalDataConfig)
    batch_size: int | None = setting("images per device at a time; null: as in training", POSITIVE, default=None)
    timeout_minutes: float | None = setting(
        "longest wait for images or another process, minutes; null: as in training", POSITIVE, default=None
    )
