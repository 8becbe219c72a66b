"""Imports and slow first calls, made once in the server of `real_run` for all child processes."""

import matplotlib.pyplot  # noqa: F401
import torch
from hydra.core.override_parser.overrides_parser import OverridesParser
from training.small_run import tiny_model

import dat_train.commands.train  # noqa: F401
from dat_train.models import count_macs
from dat_train.runtime.precision import resolve_precision
from dat_train.training.memory_estimate import estimate_memory

torch.set_num_threads(1)  # a process with more threads must not fork
OverridesParser.create().parse_override("name=run")
count_macs(tiny_model(), 32)
estimate_memory(tiny_model(), (3, 32, 32), 4, resolve_precision("fp32", torch.device("cpu")), ema=True)
