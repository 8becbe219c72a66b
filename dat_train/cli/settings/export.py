"""Settings of dat-export."""

from dataclasses import dataclass, field

from dat_train.cli.settings.limits import POSITIVE, one_of
from dat_train.cli.settings.setting import setting
from dat_train.cli.settings.trained_model import OptionalDataConfig, TrainedModelConfig


@dataclass
class ExportConfig(TrainedModelConfig):
    format: str = setting("file format", one_of("safetensors", "onnx", "torch_export"))
    output: str | None = setting(
        "folder to write; null: export/FORMAT in the run's folder, or ./export", default=None, path=True
    )
    int8: bool = setting("format=onnx: a second file with weights in 8 bits")
    validate: bool | None = setting(
        "measure accuracy on the validation set, before and after; null: with int8=true", default=None
    )
    data: OptionalDataConfig = field(default_factory=OptionalDataConfig)
    batch_size: int | None = setting("validation images at a time; null: as in training", POSITIVE, default=None)
