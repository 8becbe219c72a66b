"""Learning rate of every step: warm-up inside the epochs, then the cosine of the whole run."""

import pytest
import torch
from timm.scheduler import CosineLRScheduler

from dat_train.training.schedule import learning_rate

RECIPE = {"base_lr": 1e-3, "warmup_steps": 40, "warmup_lr": 1e-6, "min_lr": 1e-5, "total_steps": 300}


@pytest.mark.parametrize("warmup_steps", [0, 1, 40, 300])
def test_every_step_has_the_rate_of_timms_cosine(warmup_steps):
    settings = RECIPE | {"warmup_steps": warmup_steps}
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=settings["base_lr"])
    scheduler = CosineLRScheduler(
        optimizer,
        t_initial=settings["total_steps"],
        lr_min=settings["min_lr"],
        warmup_t=warmup_steps,
        warmup_lr_init=settings["warmup_lr"],
        t_in_epochs=False,
    )
    for step in range(settings["total_steps"]):
        assert learning_rate(step, **settings) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12), step
        scheduler.step_update(step + 1)


def test_the_first_step_has_the_warm_ups_rate_and_none_is_above_the_base():
    rates = [learning_rate(step, **RECIPE) for step in range(300)]
    assert rates[0] == 1e-6
    assert rates[:40] == sorted(rates[:40]) and rates[40:] == sorted(rates[40:], reverse=True)
    assert max(rates) < 1e-3 and min(rates[40:]) >= 1e-5


def test_the_cosine_after_the_warm_up_is_that_without_warm_up():
    assert learning_rate(40, **RECIPE) == learning_rate(40, **RECIPE | {"warmup_steps": 0})
