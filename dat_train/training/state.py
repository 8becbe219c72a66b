"""State of a run, as saved in its checkpoints."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import nn

from dat_train.errors import UserError
from dat_train.training.ema import Ema

FORMAT = 1  # of the checkpoint's keys
GROUP_SETTINGS = ("weight_decay", "lr_scale", "betas", "eps")  # of the optimizer, with optim.args
COUNTERS = ("skipped", "consecutive_failures", "unreadable", "unreadable_in_epoch")
FORMER_COUNTERS = {"in_a_row": "consecutive_failures", "unreadable_now": "unreadable_in_epoch"}  # of version 0.1


@dataclass
class TrainState:
    """State of a run after `step` steps.

    Attributes:
        model: without wrappers (DDP, compile), so that names in checkpoints are the model's own.
        validated: step of the last validation.
        best: {score name, "epoch", "step"} of the best validation so far; {} before the first.
        counters: skipped steps; latest consecutive failed steps; unreadable images, in total and in the current epoch.
        classes: names by class number, for users of the checkpoint.
        config: resolved settings, for users of the checkpoint and for resuming.
        data: fingerprint of the data, see `data.fingerprint`; None if the task has none.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    ema: Ema | None = None
    step: int = 0
    validated: int = 0
    best: dict = field(default_factory=dict)
    counters: dict = field(default_factory=lambda: dict.fromkeys(COUNTERS, 0))
    classes: Sequence[str] = ()
    config: dict = field(default_factory=dict)
    data: dict | None = None

    def record_validation(self, name: str, score: float, epochs_done: int) -> None:
        """Record that the weights of this step were validated, and that they are the best if no score was as high.

        Args:
            name: of the score. Of equal scores, the first is the best; NaN is worse than any number.
        """
        self.validated = self.step
        if not self.best or score > self.best[name] or math.isnan(self.best[name]):
            self.best = {name: score, "epoch": epochs_done, "step": self.step}

    @property
    def is_best(self) -> bool:
        """True if the validation at this step is the best so far."""
        return self.validated == self.step and self.best.get("step") == self.step

    def state_dict(self, epochs_done: int) -> dict:
        """Return the content of a checkpoint. Its tensors are not copied."""
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
            "config": self.config,
            "data": self.data,
        }

    def load_state_dict(self, saved: dict) -> None:
        """Restore the state from the content of a checkpoint.

        Raises:
            UserError: the checkpoint is of another model, or lacks what this run needs (EMA, loss scaling).
        """
        if saved.get("format") != FORMAT:
            raise UserError(
                f"the checkpoint has format {saved.get('format')!r}, this version reads {FORMAT}; start a new run"
            )
        for name, wanted in (("ema", self.ema is not None), ("scaler", self.scaler.is_enabled())):
            if wanted and saved[name] is None:
                raise UserError(
                    f"the checkpoint contains no {name} state, which this configuration needs; start a new run"
                )
        was, now = (config.get("optim", {}).get("name") for config in (saved["config"], self.config))
        if was and now and was != now:
            raise UserError(
                f"the checkpoint has the state of optim.name={was}, which {now} cannot continue; start a new run with "
                "name=... init=CHECKPOINT"
            )
        try:
            self.model.load_state_dict(saved["model"])
            if self.ema:
                self.ema.model.load_state_dict(saved["ema"])
            self._load_optimizer(saved["optimizer"])
        except (RuntimeError, ValueError) as error:
            reason = str(error).splitlines()[-1].strip()
            raise UserError(f"the checkpoint is of another model ({reason}); choose another name=...") from error
        if self.scaler.is_enabled():
            self.scaler.load_state_dict(saved["scaler"])
        self.step = saved["step"]
        self.validated = saved["validated"]
        self.best = dict(saved["best"])
        self.counters = saved_counters(saved)

    def _load_optimizer(self, saved: dict) -> None:
        """Load the optimizer's state; the settings in its parameter groups stay those of the configuration."""
        configured = {*GROUP_SETTINGS, *(self.config.get("optim", {}).get("args") or {})}
        groups = [dict(group) for group in self.optimizer.param_groups]
        self.optimizer.load_state_dict(saved)
        for group, own in zip(self.optimizer.param_groups, groups, strict=True):
            group.update({name: value for name, value in own.items() if name in configured})


def saved_counters(saved: dict) -> dict[str, int]:
    """Counters in the content of a checkpoint, with their current names."""
    return {FORMER_COUNTERS.get(name, name): value for name, value in saved["counters"].items()}
