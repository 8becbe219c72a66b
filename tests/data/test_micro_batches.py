"""Micro-batches: the slices of the epoch's order, independent of the number of processes."""

import numpy as np
import pytest

from dat_train.data import order as module
from dat_train.data.micro_batches import EvaluationSampler, MicroBatchSampler, SampleKey
from dat_train.data.order import epoch_order

LABELS = np.repeat([0, 1, 2], [60, 30, 7])


def sampler(size=50, *, batch_size=16, micro_batch_size=4, first_step=0, last_step=7, seed=0, **settings):
    steps = {"first_step": first_step, "last_step": last_step}
    return MicroBatchSampler(
        size, seed=seed, batch_size=batch_size, micro_batch_size=micro_batch_size, **steps, **settings
    )


def test_micro_batches_are_the_slices_of_the_epochs_order():
    batches = list(sampler())
    assert len(batches) == len(sampler()) == 7 * 4
    for epoch in (0, 1):  # 3 steps of 16 in 50 samples
        positions = [key for batch in batches[epoch * 12 : (epoch + 1) * 12] for key in batch]
        assert positions == [SampleKey(epoch, index, 0) for index in epoch_order(0, epoch, 50)[:48, 0].tolist()]
    assert {key.epoch for key in batches[24]} == {2}


@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 5])
def test_processes_share_the_same_micro_batches_whatever_their_number(world_size):
    alone = list(sampler())
    parts = [list(sampler(rank=rank, world_size=world_size)) for rank in range(world_size)]
    assert [len(part) for part in parts] == [
        len(sampler(rank=rank, world_size=world_size)) for rank in range(world_size)
    ]
    per_step = [len(part) // 7 for part in parts]
    together = [
        parts[m % world_size][step * per_step[m % world_size] + m // world_size] for step in range(7) for m in range(4)
    ]
    assert together == alone


def test_another_micro_batch_size_cuts_the_same_batch_in_other_places():
    def keys(size):
        return [key for batch in sampler(micro_batch_size=size) for key in batch]

    assert keys(2) == keys(8) == keys(16)


@pytest.mark.parametrize("first_step", [1, 3, 5, 7, 8])
def test_a_later_first_step_gives_the_remaining_batches(first_step):
    rest = sampler(first_step=first_step)
    assert list(rest) == list(sampler())[first_step * 4 :]
    assert len(rest) == max(0, 7 - first_step) * 4


def test_repeats_reach_the_keys():
    keys = [key for batch in sampler(repeats=2, last_step=1) for key in batch]
    assert [key.repeat for key in keys] == [0, 1] * 8
    assert len(set(keys)) == 16 and len({key.index for key in keys}) == 8


@pytest.mark.parametrize("world_size", [1, 2, 3, 8])
@pytest.mark.parametrize("size", [1, 5, 12, 13])
def test_evaluation_has_every_sample_once_over_all_processes(size, world_size):
    parts = [EvaluationSampler(size, 4, rank, world_size) for rank in range(world_size)]
    assert [len(list(part)) for part in parts] == [len(part) for part in parts]
    keys = [key for part in parts for batch in part for key in batch]
    assert sorted(keys) == [SampleKey(0, index, 0) for index in range(size)]
    assert all(len(batch) <= 4 for part in parts for batch in part)


@pytest.mark.parametrize("settings", [{"labels": LABELS}, {"storage_order": np.arange(97)[::-1]}])
def test_balanced_and_block_orders_do_not_depend_on_the_layout_and_resume_exactly(settings):
    def batches(**layout):
        return list(sampler(97, last_step=12, repeats=2, **settings, **layout))

    alone = batches()
    parts = [batches(rank=rank, world_size=2) for rank in range(2)]
    assert [part for pair in zip(*parts, strict=True) for part in pair] == alone
    assert batches(first_step=7) == alone[7 * 4 :]


def test_each_window_of_blocks_is_read_ahead_before_its_first_batch(monkeypatch):
    monkeypatch.setattr(module, "BLOCK", 8)
    monkeypatch.setattr(module, "WINDOW", 4)
    windows = []
    storage = np.arange(64)
    batches = list(sampler(64, batch_size=16, last_step=4, storage_order=storage, read_ahead=windows.append))
    assert [len(window) for window in windows] == [32, 32]
    indices = [key.index for batch in batches for key in batch]
    assert np.concatenate(windows).tolist() == indices
