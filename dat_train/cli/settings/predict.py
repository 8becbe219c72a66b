"""Settings of dat-predict."""

from dataclasses import dataclass

from dat_train.cli.settings.limits import POSITIVE, SHARE, one_of
from dat_train.cli.settings.setting import kernels_setting, score_setting, setting
from dat_train.cli.settings.trained_model import RunningModelConfig


@dataclass
class PredictConfig(RunningModelConfig):
    images: list[str] = setting("files, folders, quoted patterns, or - for a list on standard input", path=True)
    top: int = setting("number of classes for each image", POSITIVE)
    threshold: float = setting("task=multilabel: probability from which a class is named, in place of top", SHARE)
    score: float = score_setting()
    format: str = setting("output format", one_of("table", "csv", "jsonl"))
    kernels: str = kernels_setting()
    output: str | None = setting("file to write; null: standard output", default=None, path=True)
    batch_size: int = setting("images at a time", POSITIVE)
    timeout_minutes: float | None = setting(
        "longest wait for images, minutes; null: as in training", POSITIVE, default=None
    )
