"""The settings of dat-eval."""

import dataclasses
import typing
from dataclasses import dataclass, field

from dat_train.config.limits import DEVICE, DTYPE, POSITIVE, SIZES
from dat_train.config.setting import setting
from dat_train.config.train import DataConfig, ModelConfig, ValidationConfig


def _optional(schema: type, *names: str) -> type:
    """Settings of a schema for evaluation: all null, which is "as the checkpoint says", until the user sets them."""
    hints = typing.get_type_hints(schema)
    items = []
    for item in dataclasses.fields(schema):
        if item.name in (names or hints):
            keep = item.default_factory is not dataclasses.MISSING  # a dict: empty is as good as null
            default = {"default_factory": item.default_factory} if keep else {"default": None}
            kind = hints[item.name] if keep else hints[item.name] | None
            items.append((item.name, kind, field(metadata=item.metadata, **default)))
    return dataclasses.make_dataclass(f"Eval{schema.__name__}", items)


EvalModelConfig = _optional(ModelConfig)
EvalDataConfig = _optional(DataConfig)
ImagesConfig = _optional(DataConfig, "workers", "mean", "std")  # of commands that are told which images
EvalViewConfig = _optional(ValidationConfig, "resize", "crop_pct", "interpolation")


@dataclass
class EvalConfig:
    ckpt: str = setting("checkpoint, safetensors file or released weights to evaluate")
    model: EvalModelConfig = field(default_factory=EvalModelConfig)
    data: EvalDataConfig = field(default_factory=EvalDataConfig)
    img_size: int | None = setting("test resolution, pixels", POSITIVE, default=None)
    img_sizes: list[int] | None = setting(
        "several test resolutions, one after the other, and a table", SIZES, default=None
    )
    eval: EvalViewConfig = field(default_factory=EvalViewConfig)
    ema: bool | None = setting("averaged weights (true), plain ones (false); null: averaged if any", default=None)
    batch_size: int | None = setting("images per device at a time; null: as in training", POSITIVE, default=None)
    device: str = setting("auto: the GPU if there is one; cpu, cuda or mps", DEVICE)
    dtype: str | None = setting("auto: bf16 on CUDA, else fp32; null: as in training", DTYPE, default=None)
    output: str | None = setting("folder of the reports; null: eval/ in the run's folder, or ./eval", default=None)
