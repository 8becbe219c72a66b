"""Which sample comes when: every one once, in an order that the layout of processes does not change."""

import numpy as np
import pytest

from dat_train.data.order import EvaluationSampler, MicroBatchSampler, SampleKey, epoch_order


def sampler(size=50, batch_size=16, micro_batch_size=4, first_step=0, last_step=7, seed=0, **settings):
    steps = {"first_step": first_step, "last_step": last_step}
    return MicroBatchSampler(
        size, seed=seed, batch_size=batch_size, micro_batch_size=micro_batch_size, **steps, **settings
    )


def test_an_epoch_has_every_sample_once():
    order = epoch_order(0, 3, 1000)
    assert sorted(order[:, 0]) == list(range(1000))
    assert not order[:, 1].any()


def test_the_order_follows_from_seed_and_epoch():
    assert np.array_equal(epoch_order(1, 2, 100), epoch_order(1, 2, 100))
    assert not np.array_equal(epoch_order(1, 2, 100), epoch_order(1, 3, 100))
    assert not np.array_equal(epoch_order(1, 2, 100), epoch_order(2, 2, 100))


def test_the_order_is_the_same_in_every_version():
    assert epoch_order(0, 0, 10)[:, 0].tolist() == PINNED_ORDER


PINNED_ORDER = [5, 8, 7, 9, 3, 2, 1, 4, 6, 0]  # of numpy's generator, whose permutation is part of what a run means


def test_repeated_augmentation_gives_fewer_samples_more_often_and_numbers_the_repeats():
    order = epoch_order(0, 0, 100, repeats=3)
    assert len(order) == 100
    assert (order[:99, 0].reshape(-1, 3) == order[:99:3, :1]).all()
    assert order[:6, 1].tolist() == [0, 1, 2, 0, 1, 2]
    assert order[::3, 0].tolist() == epoch_order(0, 0, 100)[:34, 0].tolist()


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
def test_from_any_step_on_it_is_the_rest_of_the_whole(first_step):
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
