"""Settings of the commands: names, types, meaning and limits. Their values, with reasons, are in conf/*.yaml."""

from dat_train.cli.settings.average import AverageConfig
from dat_train.cli.settings.bench import BenchConfig
from dat_train.cli.settings.check import CheckConfig
from dat_train.cli.settings.checks import validate
from dat_train.cli.settings.evaluate import EvalConfig
from dat_train.cli.settings.export import ExportConfig
from dat_train.cli.settings.paths import expand_home, expand_paths
from dat_train.cli.settings.predict import PredictConfig
from dat_train.cli.settings.report import ReportConfig
from dat_train.cli.settings.setting import MISSING, Setting, setting, settings
from dat_train.cli.settings.train import MAY_CHANGE, TrainConfig
from dat_train.cli.settings.visualize import VisualizeConfig

__all__ = [
    "MAY_CHANGE",
    "MISSING",
    "AverageConfig",
    "BenchConfig",
    "CheckConfig",
    "EvalConfig",
    "ExportConfig",
    "PredictConfig",
    "ReportConfig",
    "Setting",
    "TrainConfig",
    "VisualizeConfig",
    "expand_home",
    "expand_paths",
    "setting",
    "settings",
    "validate",
]
