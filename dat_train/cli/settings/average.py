"""Settings of dat-average."""

from dataclasses import dataclass

from dat_train.cli.settings.limits import AVERAGE
from dat_train.cli.settings.setting import setting
from dat_train.cli.settings.trained_model import EvaluatingConfig


@dataclass
class AverageConfig(EvaluatingConfig):
    ckpt: list[str] = setting(
        "checkpoints to average: two or more, of one architecture and the same classes", path=True
    )
    kind: str = setting(
        "uniform: all; greedy: the best, and each other that does not lower validation accuracy", AVERAGE
    )
    output: str = setting("checkpoint to write", path=True)
