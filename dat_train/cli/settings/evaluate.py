"""Settings of dat-eval."""

from dataclasses import dataclass

from dat_train.cli.settings.limits import SIZES
from dat_train.cli.settings.setting import kernels_setting, score_setting, setting
from dat_train.cli.settings.trained_model import EvaluatingConfig


@dataclass
class EvalConfig(EvaluatingConfig):
    img_sizes: list[int] | None = setting(
        "several resolutions, one after the other, and a table of them", SIZES, default=None
    )
    score: float = score_setting()
    kernels: str = kernels_setting()
    output: str | None = setting(
        "folder of the reports; null: eval/ in the run's folder, or ./eval", default=None, path=True
    )
