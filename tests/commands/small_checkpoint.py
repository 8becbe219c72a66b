"""A checkpoint as dat-train writes it, of a tiny model with random weights, without the training."""

from pathlib import Path

import torch
from commands.composing import composed

from dat_train.commands.build_model import build_model
from dat_train.commands.build_training import build_state
from dat_train.runtime.checkpoint_file import write_checkpoint
from dat_train.runtime.precision import resolve_precision

DIGITS = [str(digit) for digit in range(10)]
TINY = "++model.args={dims:[8,16,16,24],depths:[1,2,2,2],heads:[1,2,2,3],groups:[1,2,1,3]}"


def write_small_checkpoint(path: Path, *overrides: str, classes=DIGITS, model: str = TINY) -> Path:
    """Write step 0 of `experiment=digits` with these settings on top to `path`.

    Args:
        model: the override that makes dat_nano tiny; "" leaves the model as it is.
    """
    config = composed("experiment=digits", *([model] if model else []), *overrides)
    precision = resolve_precision(config.dtype, torch.device("cpu"))
    state = build_state(config, build_model(config, len(classes)), precision, classes)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_checkpoint(state.state_dict(0), path)
    return path
