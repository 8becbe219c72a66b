"""The settings of dat-predict."""

from dataclasses import dataclass, field

from dat_train.config.evaluation import EvalModelConfig, EvalViewConfig, ImagesConfig
from dat_train.config.limits import DEVICE, DTYPE, POSITIVE, one_of
from dat_train.config.setting import setting


@dataclass
class PredictConfig:
    images: list[str] = setting("files, folders, quoted patterns, or - for a list on standard input")
    ckpt: str = setting("checkpoint, exported folder, safetensors file or released weights")
    top: int = setting("classes told for each image", POSITIVE)
    format: str = setting("how predictions are written", one_of("table", "csv", "jsonl"))
    output: str | None = setting("file to write them to; null: standard output", default=None)
    model: EvalModelConfig = field(default_factory=EvalModelConfig)
    data: ImagesConfig = field(default_factory=ImagesConfig)
    img_size: int | None = setting("resolution, pixels; null: as in training", POSITIVE, default=None)
    eval: EvalViewConfig = field(default_factory=EvalViewConfig)
    ema: bool | None = setting("averaged weights (true), plain ones (false); null: averaged if any", default=None)
    batch_size: int = setting("images at a time", POSITIVE)
    device: str = setting("auto: the GPU if there is one; cpu, cuda or mps", DEVICE)
    dtype: str | None = setting("auto: bf16 on CUDA, else fp32; null: as in training", DTYPE, default=None)
