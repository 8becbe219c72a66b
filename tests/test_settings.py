"""Configurations of earlier versions are read with the names and the behavior of this one."""

import pytest
from commands.composing import composed

from dat_train.cli.settings.train import MAY_CHANGE
from dat_train.commands.build_training import run_plan
from dat_train.commands.saved_settings import keep_former_settings
from dat_train.settings import ADDED, OLD_NAMES, Settings, flat, nested, upgraded
from dat_train.training.resume import differences

POLY = {"kind": "poly", "warmup_steps": 1500, "warmup_factor": 1e-6, "power": 0.9, "milestones": [], "gamma": 0.1}
STEP = {"kind": "step", "warmup_steps": 500, "warmup_factor": 1e-3, "power": 1.0, "milestones": [8, 11], "gamma": 0.1}
UNUSED = {"kind": None, "warmup_steps": 0, "warmup_factor": 1e-3, "power": 1.0, "milestones": [], "gamma": 0.1}
LOCAL = ["data.root=/data", "init=weights.pth"]
KNOWN = ("task", "steps", "eval.every_steps")  # settings that the versions with the group `falling` had
FORMER = {  # group `falling`, and the command line with the same schedule today
    "segmentation": (POLY, ["experiment=upernet_datpp_t", *LOCAL, "schedule.power=0.9"]),
    "detection": (STEP, ["experiment=mask_rcnn_datpp_t_1x", *LOCAL]),
    "classification": (UNUSED, ["model=dat_t", "data=imagenet", "data.root=/data"]),
}


def former(now: Settings, falling: dict) -> dict:
    """A configuration as it was written when `falling`, unless its kind was null, replaced the group `schedule`."""
    kept = {key: value for key, value in flat(now.plain()).items() if key not in ADDED or key in KNOWN}
    others = nested({key: value for key, value in kept.items() if not key.startswith("schedule.")})
    cosine = now.schedule.only("warmup_epochs", "warmup_lr") | {"min_lr": 1e-5 * now.batch_size / 1024}
    return others | {"schedule": cosine, "falling": falling}


@pytest.mark.parametrize("task", FORMER)
def test_a_run_with_the_group_falling_is_continued_without_a_difference(task):
    falling, arguments = FORMER[task]
    now = composed(*arguments)
    before = upgraded(former(now, falling))
    keep_former_settings(now, before)
    assert differences(before, now.plain(), MAY_CHANGE) == []
    assert not {key for key in flat(before) if key.startswith("falling") or key in OLD_NAMES}


@pytest.mark.parametrize("task", FORMER)
def test_the_group_falling_becomes_the_schedule_of_its_formula(task):
    falling, arguments = FORMER[task]
    now = composed(*arguments)
    schedule = now.schedule.plain() | upgraded(former(now, falling))["schedule"]
    plan = run_plan(Settings(now.plain() | {"schedule": schedule}), 117_266, 2)
    if task == "classification":
        assert plan.learning_rate(0) == now.schedule.warmup_lr and plan.warmup_steps == 20 * plan.steps_per_epoch
        return
    for step in (0, 1, 499, 1499, 1500, 9 * plan.steps_per_epoch, plan.scheduled_steps - 1):
        rate = now.optim.lr * (1 - step / plan.scheduled_steps) ** 0.9
        if task == "detection":
            rate = now.optim.lr * 0.1 ** sum(step >= epoch * plan.steps_per_epoch for epoch in (8, 11))
        left = max(0.0, 1 - step / falling["warmup_steps"])
        assert plan.learning_rate(step) == pytest.approx(rate * (1 - left * (1 - falling["warmup_factor"]))), step
