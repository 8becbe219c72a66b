"""The learning rate of every step: a warm-up inside the schedule, then timm's formulas per step."""

import pytest
import torch
from timm.scheduler import create_scheduler_v2

from dat_train.choices import SCHEDULES
from dat_train.errors import UserError
from dat_train.training.schedule import Schedule

EPOCHS, STEPS_PER_EPOCH = 30, 10
RECIPE = {"base_lr": 1e-3, "warmup_epochs": 4, "warmup_lr": 1e-6, "min_lr": 1e-5}
SHAPES = {  # arguments of ours, and of timm's factory
    "cosine": ({}, {}),
    "linear": ({}, {"sched": "poly", "decay_rate": 1.0}),
    "poly": ({"power": 0.9}, {"decay_rate": 0.9}),
    "step": ({"step_epochs": 7, "gamma": 0.3}, {"decay_epochs": 7, "decay_rate": 0.3}),
    # timm multiplies one step before a milestone, PyTorch and this schedule at the milestone
    "multistep": ({"milestones": (8, 20), "gamma": 0.5}, {"decay_milestones": [8.1, 20.1], "decay_rate": 0.5}),
    "constant": ({}, {}),
}


def rates(**settings) -> list[float]:
    schedule = Schedule(**(RECIPE | settings))
    steps = EPOCHS * STEPS_PER_EPOCH
    return [schedule.rate(step, steps, STEPS_PER_EPOCH) for step in range(steps)]


def test_every_schedule_is_compared_with_timm():
    assert set(SHAPES) == set(SCHEDULES)


@pytest.mark.parametrize("warmup_epochs", [0, 4, 30])
@pytest.mark.parametrize("name", SCHEDULES)
def test_every_step_has_the_rate_of_timms_scheduler(name, warmup_epochs):
    ours, theirs = SHAPES[name]
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=RECIPE["base_lr"])
    scheduler, _ = create_scheduler_v2(
        optimizer,
        num_epochs=EPOCHS,
        warmup_epochs=warmup_epochs,
        warmup_lr=RECIPE["warmup_lr"],
        min_lr=RECIPE["min_lr"],
        step_on_epochs=False,
        updates_per_epoch=STEPS_PER_EPOCH,
        **({"sched": name} | theirs),
    )
    for step, rate in enumerate(rates(name=name, warmup_epochs=warmup_epochs, **ours)):
        assert rate == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12), step
        scheduler.step_update(step + 1)


def test_the_first_step_has_the_rate_of_the_warm_up_and_none_is_above_the_base():
    found = rates()
    assert found[0] == 1e-6
    assert found[:40] == sorted(found[:40]) and found[40:] == sorted(found[40:], reverse=True)
    assert max(found) < 1e-3 and min(found[40:]) >= 1e-5


def test_after_the_warm_up_the_cosine_is_where_it_would_be_without_one():
    assert rates()[40:] == rates(warmup_epochs=0)[40:]


def test_the_warm_up_may_be_given_in_steps():
    assert rates(warmup_steps=40, warmup_epochs=99) == rates(warmup_epochs=4)
    assert rates(warmup_steps=0) == rates(warmup_epochs=0)


def test_a_warm_up_factor_multiplies_the_falling_rate():
    poly = {"name": "poly", "base_lr": 1.0, "min_lr": 0.0, "power": 0.9, "warmup_steps": 10, "warmup_factor": 0.1}
    found = rates(**poly)
    assert found[0] == pytest.approx(0.1)
    assert found[5] == pytest.approx((1 - 5 / 300) ** 0.9 * (1 - 0.5 * 0.9))
    assert found[150] == pytest.approx(0.5**0.9)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        (
            {"name": "plateau"},
            "schedule.name=plateau does not exist; one of cosine, linear, poly, step, multistep, const",
        ),
        ({"name": "multistep"}, "schedule.name=multistep needs schedule.milestones, epochs as in [30,60,90]"),
        ({"warmup_epochs": -1}, "schedule.warmup_epochs=-1 must not be negative"),
    ],
)
def test_impossible_schedules_are_one_line(settings, text):
    with pytest.raises(UserError) as caught:
        Schedule(**(RECIPE | settings))
    assert str(caught.value).startswith(text)
