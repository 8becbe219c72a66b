"""Everything a run carries from step to step, and a checkpoint therefore holds."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import nn

from dat_train.errors import UserError
from dat_train.training.ema import Ema

FORMAT = 1  # of the checkpoint's keys


@dataclass
class TrainState:
    """The state after `step` steps.

    Attributes:
        model: without wrappers (DDP, compile), so that names in checkpoints are the model's own.
        validated: the step of the last validation; at an epoch's end it tells "not validated yet" from "done".
        best: {"top1", "epoch", "step"} of the best validation so far, {} before the first.
        counters: "skipped" steps, how many just now failed "in_a_row"; "unreadable" images met, and "unreadable_now",
            those of the current epoch.
        classes: names by class number, for who uses the checkpoint without the data; training itself needs none.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    ema: Ema | None = None
    step: int = 0
    validated: int = 0
    best: dict = field(default_factory=dict)
    counters: dict = field(default_factory=lambda: {"skipped": 0, "in_a_row": 0, "unreadable": 0, "unreadable_now": 0})
    classes: Sequence[str] = ()

    @property
    def is_best(self) -> bool:
        """Whether the validation of this very step is the best so far."""
        return self.validated == self.step and self.best.get("step") == self.step

    def save(self, epochs_done: int, config: dict) -> dict:
        """What a checkpoint of this moment holds; tensors are the live ones."""
        return {
            "format": FORMAT,
            "model": self.model.state_dict(),
            "ema": self.ema.model.state_dict() if self.ema else None,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict() if self.scaler.is_enabled() else None,
            "step": self.step,
            "epoch": epochs_done,
            "validated": self.validated,
            "best": self.best,
            "counters": self.counters,
            "classes": list(self.classes),
            "config": config,
        }

    def load(self, saved: dict) -> None:
        """Become what `saved` says.

        Raises:
            UserError: a checkpoint of another model, or without what this run needs (EMA, loss scaling).
        """
        if saved.get("format") != FORMAT:
            raise UserError(
                f"the checkpoint has format {saved.get('format')!r}, this version reads {FORMAT}; train afresh"
            )
        for name, wanted in (("ema", self.ema is not None), ("scaler", self.scaler.is_enabled())):
            if wanted and saved[name] is None:
                raise UserError(f"the checkpoint holds no {name} state, which this configuration needs; train afresh")
        try:
            self.model.load_state_dict(saved["model"])
            if self.ema:
                self.ema.model.load_state_dict(saved["ema"])
            self.optimizer.load_state_dict(saved["optimizer"])
        except (RuntimeError, ValueError) as error:
            reason = str(error).splitlines()[-1].strip()
            raise UserError(f"the checkpoint is of another model ({reason}); choose another name=...") from error
        if self.scaler.is_enabled():
            self.scaler.load_state_dict(saved["scaler"])
        self.step = saved["step"]
        self.validated = saved["validated"]
        self.best = dict(saved["best"])
        self.counters = dict(saved["counters"])
