"""What a trained model is used with: the settings it was trained with, or a recipe's, and over them what was typed."""

from typing import Any

import timm
from hydra import compose
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

import dat_train.models  # noqa: F401  registers the models
from dat_train.commands.cli import choices, register
from dat_train.commands.exported_settings import settings_of_timm
from dat_train.config import TrainConfig, flat, settings, to_dict, validate
from dat_train.errors import UserError

NORMALISATION = ("mean", "std")  # of data, but the model's affair: it was trained with them
OF_ITS_MACHINE = "device"  # what a training run had for where it ran
RELEASED_DATA = "imagenet"  # what weights without a configuration saw, where nothing else is said


def settings_of(config: DictConfig, checkpoint: dict[str, Any], images: bool = True) -> DictConfig:
    """Settings as of a training run, from which model, data and transform are made.

    Args:
        config: dat-eval's, or another command's that uses a trained model; where it is null, the checkpoint's count.
            model=NAME replaces the checkpoint's model altogether; data=NAME says where the images are, and leaves
            normalisation and view as they were trained.
        checkpoint: contents of the file.
        images: whether the data's images are going to be read; without, data=NAME need not be there.

    Raises:
        UserError: the checkpoint does not say what it is of, and neither does `config`; impossible settings.
    """
    chosen = {group: name for group in ("model", "data") if (name := HydraConfig.get().runtime.choices[group])}
    trained = _trained_with(checkpoint)
    if "kind" not in trained.get("data", {}) and not images:
        chosen.setdefault("data", RELEASED_DATA)
    _require(config.ckpt, chosen, trained)
    if trained and "model" in chosen:
        del trained["model"]
    if trained and "data" in chosen:
        trained["data"] = {name: trained["data"][name] for name in NORMALISATION}

    register("train", TrainConfig)
    defaults = compose("train", [f"{group}={name}" for group, name in chosen.items()])
    merged = _merge(OmegaConf.to_container(defaults), trained)
    whole = OmegaConf.create(_merge(merged, _typed(config)))
    OmegaConf.resolve(whole)
    plain = to_dict(whole) | {"init": None}  # what it was trained from is no matter now
    validate(plain, TrainConfig, images=images)
    if not timm.is_model(whole.model.timm_name):
        raise UserError(f"model.timm_name={whole.model.timm_name} is no model; one of {', '.join(choices('model'))}")
    return OmegaConf.create(plain)


def _trained_with(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """The configuration in a checkpoint of ours, or what timm's says; released ones have another kind, or none: {}."""
    if "timm" in checkpoint:
        return settings_of_timm(checkpoint["timm"])
    config = checkpoint.get("config")
    ours = isinstance(config, dict) and isinstance(config.get("model"), dict) and "timm_name" in config["model"]
    return dict(config) if ours else {}


def _require(ckpt: str, chosen: dict[str, str], trained: dict[str, Any]) -> None:
    decisive = {"model": "timm_name", "data": "kind"}
    missing = [group for group in decisive if group not in chosen and decisive[group] not in trained.get(group, {})]
    if missing:
        ways = " and ".join(f"{group}=NAME (one of {', '.join(choices(group))})" for group in missing)
        raise UserError(f"{ckpt} does not say what it was trained with: add {ways}")


def _typed(config: DictConfig) -> dict[str, Any]:
    """The settings that were said by themselves, not by a choice of model or data, named as of a training run."""
    names = [override.lstrip("+").partition("=")[0] for override in HydraConfig.get().overrides.task]
    names = [name for name in names if name not in ("model", "data", OF_ITS_MACHINE)]
    known = {item.key for item in settings(TrainConfig)}
    typed: dict[str, Any] = {}
    for key, value in flat(to_dict(config)).items():
        if value is None or not any(f"{key}.".startswith(f"{name}.") for name in names):
            continue
        if key not in known and not key.startswith("model.args."):
            continue  # the command's own, as ckpt
        *groups, last = ("eval.batch_size" if key == "batch_size" else key).split(".")
        place = typed
        for group in groups:
            place = place.setdefault(group, {})
        place[last] = value
    return typed


def _merge(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Nested settings, those above winning."""
    merged = dict(below)
    for name, value in above.items():
        deeper = isinstance(value, dict) and isinstance(below.get(name), dict)
        merged[name] = _merge(below[name], value) if deeper else value
    return merged
