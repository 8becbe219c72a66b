"""Model of a run from its settings: DAT or another timm model."""

import re

import timm
import torch
from torch import nn

import dat_train.models  # noqa: F401  registers the models
from dat_train.data.randomness import keyed_seed
from dat_train.errors import UserError, did_you_mean
from dat_train.settings import Settings


def build_model(config: Settings, num_classes: int) -> nn.Module:
    """Build the model with random weights, which depend on the seed only.

    Backbones of timm do not all take an image size: convolutional ones take images of any size.

    Raises:
        UserError: no such model, an argument it does not have, or a setting it does not support.
    """
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
