"""Settings of dat-check."""

from dataclasses import dataclass, field

from dat_train.cli.settings.limits import NOT_NEGATIVE, one_of
from dat_train.cli.settings.setting import setting
from dat_train.cli.settings.trained_model import OptionalDataConfig, ViewConfig


@dataclass
class CheckConfig:
    data: OptionalDataConfig = field(default_factory=OptionalDataConfig)
    task: str = setting("task of the data", one_of("classification", "multilabel"))
    workers: int | None = setting("processes that read images; null: one for each core", NOT_NEGATIVE, default=None)
    output: str = setting("file of the report, JSON")
    eval: ViewConfig = field(default_factory=ViewConfig)  # set by some choices of data; not used
