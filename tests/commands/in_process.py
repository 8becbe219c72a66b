"""A dat-train in this process, without the seconds a process of its own takes to import."""

import json
from pathlib import Path
from unittest import mock

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from dat_train.commands.cli import conf_dir, register
from dat_train.commands.training_run import run
from dat_train.config import TrainConfig, to_dict, validate

QUICK = ("data.workers=0", "device=cpu", "img_size=32", "model.img_size=32", "eval.crop_pct=1")


def composed(*overrides: str) -> DictConfig:
    """The resolved settings, checked as the command checks them."""
    GlobalHydra.instance().clear()
    register("train", TrainConfig)
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        config = compose("train", list(overrides))
    OmegaConf.resolve(config)
    validate(to_dict(config))
    return config


def train(runs: Path, name: str, *overrides: str) -> dict:
    """Train as dat-train with these settings does, and return the run's summary."""
    # the estimate of memory takes longer than such a run itself, and has tests of its own
    with mock.patch("dat_train.commands.training_run.estimate_memory", return_value={"activations": 0}):
        run(composed(f"runs_dir={runs}", f"name={name}", *QUICK, *overrides))
    return json.loads((runs / name / "summary.json").read_text())
