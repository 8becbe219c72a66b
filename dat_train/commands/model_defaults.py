"""Preprocessing of timm's pretrained models as defaults of a run's settings."""

from typing import Any

import timm
from timm.data import resolve_data_config

import dat_train.models  # noqa: F401  registers the models
from dat_train.choices import CLASSIFIERS
from dat_train.commands.build_model import require_model
from dat_train.settings import Settings


def with_model_defaults(config: Settings) -> Settings:
    """Fill in settings that are null: input size, normalization, crop and interpolation of the model in timm.

    Raises:
        UserError: timm does not have the model.
    """
    if config.get("task", "classification") not in CLASSIFIERS:
        return config
    data, view, model = config.data, config.eval, config.model
    if None not in (config.img_size, model.img_size, data.mean, data.std, view.crop_pct, view.interpolation):
        return config
    require_model(model.timm_name)
    known = resolve_data_config({}, pretrained_cfg=timm.get_pretrained_cfg(model.timm_name).to_dict())
    size = known["input_size"][-1]
    changed = config.plain()
    _fill(changed, img_size=config.model.img_size or size)
    _fill(changed["model"], img_size=changed["img_size"])
    _fill(changed["data"], mean=list(known["mean"]), std=list(known["std"]))
    _fill(changed["eval"], crop_pct=known["crop_pct"], interpolation=known["interpolation"])
    return Settings(changed)


def _fill(group: dict[str, Any], **values: Any) -> None:
    """Set the items that are null."""
    group.update({key: value for key, value in values.items() if group[key] is None})
