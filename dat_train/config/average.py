"""The settings of dat-average."""

from dataclasses import dataclass, field

from dat_train.config.evaluation import EvalDataConfig, EvalModelConfig, EvalViewConfig
from dat_train.config.limits import AVERAGE, DEVICE, DTYPE, POSITIVE
from dat_train.config.setting import setting


@dataclass
class AverageConfig:
    ckpt: list[str] = setting("checkpoints to average: two or more, of one architecture and the same classes")
    kind: str = setting(
        "uniform: all; greedy: the best, and each other that does not lower validation accuracy", AVERAGE
    )
    output: str = setting("checkpoint to write")
    model: EvalModelConfig = field(default_factory=EvalModelConfig)
    data: EvalDataConfig = field(default_factory=EvalDataConfig)
    img_size: int | None = setting("resolution greedy evaluates at, pixels", POSITIVE, default=None)
    eval: EvalViewConfig = field(default_factory=EvalViewConfig)
    ema: bool | None = setting("averaged weights (true), plain ones (false); null: averaged if any", default=None)
    batch_size: int | None = setting("images at a time; null: as in training", POSITIVE, default=None)
    device: str = setting("auto: the GPU if there is one; cpu, cuda or mps", DEVICE)
    dtype: str | None = setting("auto: bf16 on CUDA, else fp32; null: as in training", DTYPE, default=None)
