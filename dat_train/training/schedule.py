"""Learning-rate schedules as pure functions of the step."""

import math
from dataclasses import dataclass


def learning_rate(
    step: int, *, base_lr: float, warmup_steps: int, warmup_lr: float, min_lr: float, total_steps: int
) -> float:
    """Learning rate with linear warm-up and cosine decay, both per step (docs/model.md, "Recipe").

    The warm-up steps are part of `total_steps`. The cosine starts at step 0, and its first `warmup_steps` steps are
    replaced by the warm-up, as in timm's CosineLRScheduler (warmup_prefix=False) and in the published code. The
    schedule has no state to save.

    Args:
        step: number of completed steps before the update, 0-based.
        total_steps: length of the schedule (`epochs`), also if `max_steps` ends the run earlier.
    """
    if step < warmup_steps:
        return warmup_lr + (base_lr - warmup_lr) * step / warmup_steps
    return min_lr + 0.5 * (base_lr - min_lr) * (1 + math.cos(math.pi * step / total_steps))


@dataclass(frozen=True)
class FallingSchedule:
    """Schedules of the published segmentation ("poly") and detection ("step").

    Both are pure functions of the step. In the warm-up, the falling rate is multiplied by a factor that rises linearly
    from `warmup_factor` to 1.

    Args:
        kind: "poly" falls to 0 with `power`; "step" multiplies the rate by `gamma` after each milestone.
        warmup_steps: length of the warm-up.
        warmup_factor: factor at step 0.
        milestones: epochs.
    """

    kind: str
    warmup_steps: int = 0
    warmup_factor: float = 1e-3
    power: float = 1.0
    milestones: tuple[int, ...] = ()
    gamma: float = 0.1

    def rate(self, step: int, base_lr: float, total_steps: int, steps_per_epoch: int) -> float:
        """Rate of the update from `step` to `step` + 1 steps done."""
        if self.kind == "poly":
            rate = base_lr * max(0.0, 1 - step / total_steps) ** self.power
        else:
            rate = base_lr * self.gamma ** sum(step >= epoch * steps_per_epoch for epoch in self.milestones)
        if step >= self.warmup_steps:
            return rate
        return rate * (1 - (1 - step / self.warmup_steps) * (1 - self.warmup_factor))

    def text(self, base_lr: float) -> str:
        """The schedule in words."""
        warmup = f", warm-up of {self.warmup_steps:,} steps" if self.warmup_steps else ""
        if self.kind == "poly":
            return f"{base_lr:.3g}{warmup}, falls to 0 with power {self.power:g}"
        return f"{base_lr:.3g}{warmup}, times {self.gamma:g} after epochs {', '.join(map(str, self.milestones))}"
