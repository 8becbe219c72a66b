"""The learning rate of every step."""

import math


def learning_rate(
    step: int, *, base_lr: float, warmup_steps: int, warmup_lr: float, min_lr: float, total_steps: int
) -> float:
    """Linear warm-up, then a cosine, both per step (docs/model.md, "Recipe").

    The warm-up counts inside `total_steps`, and the cosine is that of the whole run: at `warmup_steps` it goes on where
    a cosine from step 0 would be, as timm's CosineLRScheduler and the published code do. Nothing carries state for it,
    so a resumed run has the right rate by itself.

    Args:
        step: 0-based; the rate of the update that makes step `step` to `step + 1` steps done.
        total_steps: of the whole schedule (`epochs`), also when `max_steps` ends the run before.
    """
    if step < warmup_steps:
        return warmup_lr + (base_lr - warmup_lr) * step / warmup_steps
    return min_lr + 0.5 * (base_lr - min_lr) * (1 + math.cos(math.pi * step / total_steps))
