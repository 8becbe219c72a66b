"""Plan of a run in steps, and errors that name the nearest possible values."""

import itertools
import re

import pytest

from dat_train.errors import UserError
from dat_train.training.plan import RunPlan
from dat_train.training.schedule import Schedule


def plan(**settings) -> RunPlan:
    usual = {"train_size": 10_000, "epochs": 30, "max_steps": None, "batch_size": 384, "micro_batch_size": 32}
    rates = {"warmup_epochs": 2, "base_lr": 1e-3, "warmup_lr": 1e-6, "min_lr": 1e-5}
    rates |= {name: settings.pop(name) for name in ("warmup_epochs", "warmup_steps") if name in settings}
    return RunPlan(**(usual | {"world_size": 2, "schedule": Schedule(**rates)} | settings))


def test_everything_follows_from_epochs_batch_sizes_and_processes():
    found = plan()
    assert found.steps_per_epoch == 26  # 10,000 / 384 = 26.04: the last 16 images are left out
    assert found.steps == found.scheduled_steps == 780
    assert found.warmup_steps == 52
    assert found.micro_batches == 12


@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 12])
def test_every_micro_batch_belongs_to_one_process(world_size):
    found = plan(world_size=world_size)
    shares = [found.micro_batches_of(rank) for rank in range(world_size)]
    assert sorted(m for share in shares for m in share) == list(range(12))
    assert len({len(share) for share in shares}) == 1


def test_max_steps_ends_the_run_and_leaves_the_schedule():
    short = plan(max_steps=100)
    assert (short.steps, short.scheduled_steps) == (100, 780)
    assert short.learning_rate(99) == plan().learning_rate(99)


def test_max_steps_beyond_the_epochs_changes_nothing():
    assert plan(max_steps=10_000).steps == 780


def test_validation_follows_every_n_epochs_and_the_end():
    every_seventh = [step for step in range(1, 781) if plan().is_validation_step(step, 7)]
    assert every_seventh == [182, 364, 546, 728, 780]
    assert [step for step in range(1, 781) if plan().is_validation_step(step, 1000)] == [780]
    assert [step for step in range(1, 101) if plan(max_steps=100).is_validation_step(step, 1)] == [26, 52, 78, 100]


def test_the_warm_up_may_be_part_of_an_epoch():
    assert plan(warmup_epochs=0.5).warmup_steps == 13


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"batch_size": 1000, "micro_batch_size": 128, "world_size": 3},
            "batch_size=1000 is not a multiple of micro_batch_size * world_size = 384; nearest: 768, 1152",
        ),
        (
            {"batch_size": 64, "micro_batch_size": 48, "world_size": 1},
            "batch_size=64 is not a multiple of micro_batch_size * world_size = 48; "
            "nearest: 48, 96, or micro_batch_size=32",
        ),
        (
            {"batch_size": 10, "micro_batch_size": 128, "world_size": 2},
            "batch_size=10 is not a multiple of micro_batch_size * world_size = 256; nearest: 256",
        ),
        (
            {"train_size": 300},
            "batch_size=384 is larger than the training set of 300 images; use batch_size=256",
        ),
        (
            {"train_size": 10, "batch_size": 32, "micro_batch_size": 8, "world_size": 4},
            "batch_size=32 is larger than the training set of 10 images; use batch_size=8 micro_batch_size=2",
        ),
        (
            {"train_size": 3, "batch_size": 32, "micro_batch_size": 8, "world_size": 4},
            "batch_size=32 is larger than the training set of 3 images; use at most 3 processes, "
            "with batch_size=3 micro_batch_size=1",
        ),
        (
            {"warmup_epochs": 31},
            "schedule.warmup_epochs=31 is longer than epochs=30, inside which the warm-up counts; "
            "use schedule.warmup_epochs=3",
        ),
        ({"warmup_epochs": -1}, "schedule.warmup_epochs=-1 must not be negative"),
        (
            {"warmup_steps": 781},
            "schedule.warmup_steps=781 is longer than the schedule of 780 steps, inside which the warm-up counts; "
            "use schedule.warmup_steps=78",
        ),
        ({"epochs": 0}, "epochs=0 must be at least 1"),
        ({"max_steps": 0}, "max_steps=0 must be at least 1"),
        ({"micro_batch_size": -4}, "micro_batch_size=-4 must be at least 1"),
    ],
)
def test_impossible_batch_sizes_are_refused_with_the_nearest_possible(settings, message):
    with pytest.raises(UserError) as refusal:
        plan(**settings)
    assert str(refusal.value) == message


def proposals(message: str) -> list[dict[str, int]]:
    """The settings that a refusal proposes."""
    if " processes, with " in message:
        message = message.replace("use at most ", "use world_size=").replace(" processes, with", "")
    found = [{"batch_size": int(value)} for value in re.findall(r"\d+", re.sub(r".*nearest:|, or .*", "", message))]
    found = found if "nearest:" in message else []
    for advice in re.findall(r"(?:, or|; use|nearest:.* or) (\w+=.*)", message):
        found.append({key: int(value) for key, value in re.findall(r"(\w+)=(\d+)", advice)})
    return found


@pytest.mark.parametrize("world_size", [1, 2, 3, 5, 8])
def test_proposed_settings_are_accepted(world_size):
    refused = 0
    for train_size, batch_size, micro_batch_size in itertools.product(
        (1, 2, 3, 5, 10, 11, 48, 100, 383), (1, 2, 7, 10, 12, 24, 36, 64, 100, 384), (1, 2, 3, 4, 5, 8, 12, 32, 128)
    ):
        typed = {
            "train_size": train_size,
            "batch_size": batch_size,
            "micro_batch_size": micro_batch_size,
            "world_size": world_size,
        }
        try:
            plan(**typed)
        except UserError as error:
            refused += 1
            ways = proposals(str(error))
            assert ways, error
            for way in ways:
                accepted = plan(**(typed | way))
                if micro_batch_size % 2 == 0:  # mixup pairs images
                    assert accepted.micro_batch_size % 2 == 0 or accepted.micro_batch_size == 1, error
    assert refused > 100


def test_the_description_mentions_unusual_settings():
    usual = dict(plan(micro_batch_size=384, world_size=1, warmup_epochs=0).describe())
    assert usual == {
        "length": "780 steps = 30 epochs of 26",
        "batch": "384",
        "lr": "0.001, cosine to 1e-05",
    }
    unusual = dict(plan(max_steps=100).describe())
    assert unusual["length"].endswith("(max_steps; the schedule is that of 30 epochs = 780 steps)")
    assert unusual["batch"] == "384 = 12 micro-batches of 32 on 2 processes, in 6 turns"
    assert unusual["lr"] == "1e-06 rising to 0.001 in 52 steps, cosine to 1e-05"


@pytest.mark.parametrize(("sizes", "advice"), [
    ({"batch_size": 9, "micro_batch_size": 3, "world_size": 1}, "batch_size=8 micro_batch_size=4"),
    ({"batch_size": 10, "micro_batch_size": 5, "world_size": 1}, "micro_batch_size=2"),
    ({"batch_size": 10, "micro_batch_size": 3, "world_size": 1}, "micro_batch_size=2"),
    ({"batch_size": 6, "micro_batch_size": 1, "world_size": 2}, "batch_size=4 micro_batch_size=2"),
    ({"batch_size": 3, "micro_batch_size": 3, "world_size": 1, "train_size": 3}, "batch_size=2 micro_batch_size=2"),
])  # fmt: skip
def test_an_odd_micro_batch_that_is_mixed_is_replaced_by_sizes_that_are_possible(sizes, advice):
    with pytest.raises(UserError, match=rf"micro_batch_size={sizes['micro_batch_size']} is odd; use {advice}, or mix"):
        plan(**sizes, pairs=True)
    plan(**sizes | {name: int(value) for name, value in re.findall(r"(\w+)=(\d+)", advice)}, pairs=True)


def test_a_step_schedule_needs_at_least_a_step():
    schedule = Schedule(name="step", base_lr=1.0, warmup_epochs=0, step_epochs=0.01)
    with pytest.raises(UserError, match=r"schedule\.step_epochs=0\.01 is less than a step; an epoch has 26 steps"):
        plan(schedule=schedule)
