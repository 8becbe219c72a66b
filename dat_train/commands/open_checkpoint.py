"""Checkpoint of a command: the file in `ckpt`, or the pretrained weights of the chosen model."""

import timm

from dat_train.errors import UserError
from dat_train.models.checkpoint import TIMM_SCHEME, Checkpoint
from dat_train.models.published_weights import PUBLISHED, SCHEME
from dat_train.settings import Settings


def open_checkpoint(config: Settings) -> Checkpoint:
    """Open config.ckpt; without it the weights of config.model published by its authors or in timm.

    Raises:
        UserError: neither a checkpoint nor a model is set; a file that cannot be read or downloaded.
    """
    if config.ckpt:
        return Checkpoint.open(config.ckpt)
    if not config.model.timm_name:
        raise UserError("ckpt is not set: ckpt=PATH, e.g. runs/digits, or model=NAME for its published weights")
    name = config.model.timm_name
    known = timm.get_pretrained_cfg(name)
    in_timm = known is not None and name not in PUBLISHED and known.has_weights
    return Checkpoint.open(f"{TIMM_SCHEME if in_timm else SCHEME}{name}")
