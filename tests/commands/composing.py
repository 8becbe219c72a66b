"""Composed settings without a command."""

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from dat_train.cli.composing import register
from dat_train.cli.conf import conf_dir
from dat_train.cli.settings.train import TrainConfig
from dat_train.cli.settings.value_checks import validate
from dat_train.settings import Settings


def composed(*overrides: str) -> Settings:
    """The settings of dat-train with these overrides, resolved and checked as the command does."""
    GlobalHydra.instance().clear()
    register("train", TrainConfig)
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        config = compose("train", list(overrides))
    OmegaConf.resolve(config)
    values = OmegaConf.to_container(config)
    validate(values)
    return Settings(values)
