"""Model of a run from its settings, and settings that follow from the model in timm."""

import re
from typing import Any

import timm
import torch
from timm.data import resolve_data_config
from torch import nn

import dat_train.models  # noqa: F401  registers the models
from dat_train.choices import CLASSIFIERS, DETECTORS
from dat_train.data.randomness import keyed_seed
from dat_train.errors import UserError, did_you_mean
from dat_train.models.detection.rcnn import create_detector
from dat_train.models.segmentation import create_segmentation
from dat_train.settings import Settings


def build_model(config: Settings, num_classes: int) -> nn.Module:
    """Build the model of the task with random weights, which depend on the seed only.

    Raises:
        UserError: no such model, an argument it does not have, or a setting it does not support.
    """
    return (_classifier if config.task in CLASSIFIERS else _dense_model)(config, num_classes)


def _dense_model(config: Settings, num_classes: int) -> nn.Module:
    """Segmentation model or detector."""
    model, dense, segmenting = config.model, config.dense, config.task == "segmentation"
    if (dense.head in DETECTORS) == segmenting:
        raise UserError(f"dense.head={dense.head} does not belong to task={config.task}")
    torch.manual_seed(keyed_seed("init", config.seed))
    arguments = {"img_size": model.img_size, "drop_path_rate": model.drop_path_rate, **model.args}
    if dense.channels:
        arguments["channels"] = dense.channels
    if segmenting:
        arguments["dropout"] = dense.dropout
    create = create_segmentation if segmenting else create_detector
    built = create(model=model.timm_name, head=dense.head, num_classes=num_classes, **arguments)
    built.set_grad_checkpointing(model.grad_checkpointing)
    return built


def _classifier(config: Settings, num_classes: int) -> nn.Module:
    """Model of timm. Not all take an image size: convolutional ones take images of any size."""
    settings, name = config.model, config.model.timm_name
    require_model(name)
    arguments = {"img_size": settings.img_size, "drop_path_rate": settings.drop_path_rate, **settings.args}
    while True:
        torch.manual_seed(keyed_seed("init", config.seed))
        try:
            model = timm.create_model(name, num_classes=num_classes, in_chans=len(config.data.mean), **arguments)
            break
        except TypeError as error:
            unknown = re.search(r"unexpected keyword argument '(\w+)'", str(error))
            if not unknown or unknown[1] not in arguments:
                raise
            _leave_out(unknown[1], arguments, settings)
    if settings.grad_checkpointing:
        try:
            model.set_grad_checkpointing(True)
        except (AttributeError, AssertionError, NotImplementedError):
            raise UserError(f"model.grad_checkpointing=true: {name} does not support it; set it to false") from None
    return model


def require_model(name: str, setting: str = "model.timm_name") -> None:
    """Raise a UserError unless timm has the model."""
    if not timm.is_model(name.partition(".")[0]):
        raise UserError(f"{setting}={name} is not a model of timm{did_you_mean(name, timm.list_models(), 3)}")


def classifiers(name: str) -> tuple[str, ...]:
    """Names of the classifier's modules of a timm model, from its pretrained_cfg."""
    config = timm.get_pretrained_cfg(name)
    found = (config.classifier if config else None) or "head.fc"
    return (found,) if isinstance(found, str) else tuple(found)


def _leave_out(argument: str, arguments: dict, settings: Settings) -> None:
    """Remove an argument that the model does not have, if nothing depends on it."""
    if argument in settings.args:
        raise UserError(f"model.args.{argument}: {settings.timm_name} has no such argument; remove the setting")
    if argument == "drop_path_rate" and settings.drop_path_rate:
        raise UserError(
            f"model.drop_path_rate={settings.drop_path_rate}: {settings.timm_name} has no stochastic depth; set it to 0"
        )
    del arguments[argument]


def with_model_defaults(config: Settings) -> Settings:
    """Fill in settings that are null: input size, normalization, crop and interpolation of the model in timm.

    Raises:
        UserError: timm does not have the model.
    """
    if config.task not in CLASSIFIERS:
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
