"""The settings: their names, types, meaning and limits. Their values, with the reason for each, are in conf/*.yaml.

Only `commands/` sees this; it hands plain arguments down.
"""

from dat_train.config.average import AverageConfig
from dat_train.config.benchmark import BenchConfig
from dat_train.config.checks import differences, validate
from dat_train.config.evaluation import EvalConfig
from dat_train.config.export import ExportConfig
from dat_train.config.prediction import PredictConfig
from dat_train.config.report import ReportConfig
from dat_train.config.setting import MISSING, Setting, flat, setting, settings, to_dict
from dat_train.config.train import TrainConfig
from dat_train.config.visualization import VisualizeConfig

__all__ = [
    "MISSING",
    "AverageConfig",
    "BenchConfig",
    "EvalConfig",
    "ExportConfig",
    "PredictConfig",
    "ReportConfig",
    "Setting",
    "TrainConfig",
    "VisualizeConfig",
    "differences",
    "flat",
    "setting",
    "settings",
    "to_dict",
    "validate",
]
