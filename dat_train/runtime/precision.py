"""Numeric precision of a model, by dtype name."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch

from dat_train.choices import DTYPES
from dat_train.errors import UserError, require_one_of


@dataclass(frozen=True)
class Precision:
    """Data types selected by a dtype name: of the weights, and of autocast (None: no autocast)."""

    name: str
    weights_dtype: torch.dtype
    autocast: torch.dtype | None
    device: torch.device

    def context(self) -> AbstractContextManager:
        """Autocast context of the forward pass."""
        return torch.autocast(self.device.type, self.autocast) if self.autocast else nullcontext()

    def scaler(self) -> torch.amp.GradScaler:
        """Gradient scaler, enabled for fp16 only."""
        return torch.amp.GradScaler(self.device.type, enabled=self.autocast is torch.float16)


def resolve_precision(name: str, device: torch.device) -> Precision:
    """Return the precision `name` on `device`; "auto": bf16 on CUDA (fp16 if bf16 is not supported), else fp32.

    Raises:
        UserError: an unknown name, or a dtype that the device does not support.
    """
    require_one_of("dtype", name, DTYPES)
    if name == "auto":
        name = "fp32"
        if device.type == "cuda":
            name = "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    if name == "fp64" and device.type == "mps":
        raise UserError("dtype=fp64 does not exist on mps; use dtype=fp32 or device=cpu")
    autocast = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(name)
    return Precision(name, torch.float64 if name == "fp64" else torch.float32, autocast, device)
