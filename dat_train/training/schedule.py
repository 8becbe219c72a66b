"""Learning-rate schedules as pure functions of the step, and the defaults of learning rate and warm-up."""

import math
from dataclasses import dataclass

from dat_train.choices import SCHEDULES
from dat_train.errors import UserError

FULL_LR_BATCH = 1024  # images of an update for which the rate in linear_lr is given
TO_THE_END = ("cosine", "linear", "poly")  # schedules that end at `min_lr`


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Learning rate with warm-up, per step (docs/family.md, "Optimizers, schedules, losses").

    The warm-up steps are part of the schedule: it starts at step 0, and its first steps are replaced by the warm-up, as
    in timm's schedulers (warmup_prefix=False) and in the published code. A schedule has no state to save.

    Args:
        name: "cosine", "linear" and "poly" fall from `base_lr` to `min_lr`; "step" multiplies the rate by `gamma` every
            `step_epochs`, "multistep" after each of `milestones`; "constant" does not change it.
        base_lr: rate at the beginning.
        warmup_epochs: length of the warm-up.
        warmup_steps: the same in steps, instead of epochs.
        warmup_lr: rate at step 0, from which the warm-up rises linearly to `base_lr`.
        warmup_factor: factor at step 0 that rises linearly to 1 and multiplies the falling rate, instead of
            `warmup_lr`, as in mmcv.
        power: exponent of "poly".
        milestones: epochs of "multistep".

    Raises:
        UserError: no such schedule, or a missing argument.
    """

    name: str = "cosine"
    base_lr: float
    warmup_epochs: float = 0.0
    warmup_steps: int | None = None
    warmup_lr: float = 0.0
    warmup_factor: float | None = None
    min_lr: float = 0.0
    power: float = 1.0
    step_epochs: float = 30.0
    milestones: tuple[int, ...] = ()
    gamma: float = 0.1

    def __post_init__(self) -> None:
        if self.name not in SCHEDULES:
            raise UserError(f"schedule.name={self.name} does not exist; one of {', '.join(SCHEDULES)}")
        if self.warmup_epochs < 0:
            raise UserError(f"schedule.warmup_epochs={self.warmup_epochs:g} must not be negative")
        if self.name == "multistep" and not self.milestones:
            raise UserError("schedule.name=multistep needs schedule.milestones, epochs as in [30,60,90]")

    def rate(self, step: int, total_steps: int, steps_per_epoch: int) -> float:
        """Rate of the update from `step` to `step` + 1.

        Args:
            step: number of completed steps, 0-based.
            total_steps: length of the schedule, also if the run ends earlier.
        """
        warmup = self.warmup_length(steps_per_epoch)
        rate = self._rate_without_warmup(step, total_steps, steps_per_epoch)
        if step >= warmup:
            return rate
        if self.warmup_factor is not None:
            return rate * (1 - (1 - step / warmup) * (1 - self.warmup_factor))
        return self.warmup_lr + (self.base_lr - self.warmup_lr) * step / warmup

    def warmup_length(self, steps_per_epoch: int) -> int:
        """Number of warm-up steps."""
        if self.warmup_steps is not None:
            return self.warmup_steps
        return round(self.warmup_epochs * steps_per_epoch)

    def text(self, warmup_steps: int) -> str:
        """The schedule in words."""
        start = f"{self.base_lr:.3g}"
        if warmup_steps and self.warmup_factor is None:
            start = f"{self.warmup_lr:.3g} rising to {start} in {warmup_steps:,} steps"
        elif warmup_steps:
            start += f", warm-up of {warmup_steps:,} steps"
        if self.name == "constant":
            return start
        if self.name in TO_THE_END:
            power = f" with power {self.power:g}" if self.name == "poly" else ""
            return f"{start}, {self.name} to {self.min_lr:.3g}{power}"
        when = f"every {self.step_epochs:g} epochs"
        if self.name == "multistep":
            when = f"after epochs {', '.join(map(str, self.milestones))}"
        return f"{start}, times {self.gamma:g} {when}"

    def _rate_without_warmup(self, step: int, total_steps: int, steps_per_epoch: int) -> float:
        span, left = self.base_lr - self.min_lr, max(0.0, 1 - step / total_steps)
        match self.name:
            case "cosine":
                return self.min_lr + 0.5 * span * (1 + math.cos(math.pi * step / total_steps))
            case "linear":
                return self.min_lr + span * left
            case "poly":
                return self.min_lr + span * left**self.power
            case "step":
                return self.base_lr * self.gamma ** (step // round(self.step_epochs * steps_per_epoch))
            case "multistep":
                return self.base_lr * self.gamma ** sum(step >= epoch * steps_per_epoch for epoch in self.milestones)
            case _:
                return self.base_lr


def linear_lr(rate: float, batch_size: int) -> float:
    """Scale a learning rate per 1024 images to another batch size by the linear scaling rule (Goyal et al., 2017).

    Used in conf/ as ${linear_lr:1e-3,${batch_size}}.
    """
    return float(rate) * batch_size / FULL_LR_BATCH


def warmup(length: float, full: int, epochs: int) -> float:
    """Epochs of warm-up: `length` in schedules of `full` epochs or more, and the same fraction of shorter ones.

    Used in conf/ as ${warmup:20,300,${epochs}}.
    """
    return length if epochs >= full else round(length * epochs / full, 2)
