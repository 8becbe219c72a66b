"""The model of a run from its settings."""

import timm
import torch
from torch import nn

import dat_train.models  # noqa: F401  registers the models
from dat_train.data.randomness import keyed_seed
from dat_train.settings import Settings


def new_model(config: Settings, num_classes: int) -> nn.Module:
    """The model with its random weights, which follow from the seed."""
    torch.manual_seed(keyed_seed("init", config.seed))
    model = timm.create_model(
        config.model.timm_name,
        num_classes=num_classes,
        in_chans=len(config.data.mean),
        img_size=config.model.img_size,
        drop_path_rate=config.model.drop_path_rate,
        **config.model.args,
    )
    model.set_grad_checkpointing(config.model.grad_checkpointing)
    return model
