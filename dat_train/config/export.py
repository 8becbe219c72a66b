"""The settings of dat-export."""

from dataclasses import dataclass, field

from dat_train.config.evaluation import EvalDataConfig, EvalModelConfig, EvalViewConfig
from dat_train.config.limits import POSITIVE, one_of
from dat_train.config.setting import setting


@dataclass
class ExportConfig:
    ckpt: str = setting("checkpoint, exported folder, safetensors file or released weights")
    format: str = setting("what to write", one_of("safetensors", "onnx", "torch_export"))
    output: str | None = setting("folder to write; null: export/FORMAT in the run's folder, or ./export", default=None)
    int8: bool = setting("format=onnx: a second file with weights in 8 bits")
    validate: bool | None = setting(
        "measure accuracy on the validation set, before and after; null: with int8=true", default=None
    )
    model: EvalModelConfig = field(default_factory=EvalModelConfig)
    data: EvalDataConfig = field(default_factory=EvalDataConfig)
    img_size: int | None = setting("resolution, pixels; null: as in training", POSITIVE, default=None)
    eval: EvalViewConfig = field(default_factory=EvalViewConfig)
    ema: bool | None = setting("averaged weights (true), plain ones (false); null: averaged if any", default=None)
    batch_size: int | None = setting("validation images at a time; null: as in training", POSITIVE, default=None)
