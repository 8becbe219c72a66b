"""A checkpoint as dat-train writes it, of a tiny segmentation model or detector with random weights."""

from collections.abc import Sequence
from pathlib import Path

import torch
from commands.composing import composed

from dat_train.commands.build_model import build_model
from dat_train.commands.build_training import build_state
from dat_train.runtime.checkpoint_file import write_checkpoint
from dat_train.runtime.precision import resolve_precision

SMALL = "++model.args={dims:[8,16,16,24],depths:[1,1,1,1],num_heads:[1,2,2,3],groups:[1,1,1,1]}"


def write_small_dense_checkpoint(path: Path, task: str, *overrides: str, classes: Sequence[str]) -> Path:
    """Write step 0 of `experiment=digit_scenes_TASK` with these settings on top to `path`."""
    config = composed(f"experiment=digit_scenes_{task}", SMALL, "dense.channels=8", *overrides)
    precision = resolve_precision(config.dtype, torch.device("cpu"))
    model = build_model(config, len(classes))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_checkpoint(build_state(config, model, precision, classes).state_dict(0), path)
    return path
