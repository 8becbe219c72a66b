"""Sample order: each sample once, in an order that follows from seed and epoch."""

import numpy as np

from dat_train.data import order as module
from dat_train.data.order import balanced_order, block_order, epoch_order

LABELS = np.repeat([0, 1, 2], [60, 30, 7])


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


def test_balanced_sampling_has_every_class_equally_often_and_each_sample_before_it_comes_again():
    order = balanced_order(1, 2, LABELS)
    assert len(order) == 97 and set(np.bincount(LABELS[order[:, 0]])) == {32, 33}
    for label, number in enumerate((60, 30, 7)):
        own = order[LABELS[order[:, 0]] == label]
        assert len({tuple(row) for row in own.tolist()}) == len(own)  # augmented anew each time
        times = np.bincount(own[:, 0], minlength=97)[label == LABELS]
        assert len(times) == number and times.max() - times.min() <= 1


def test_balanced_and_block_orders_follow_from_seed_and_epoch():
    storage = np.random.default_rng(0).permutation(97)
    for order in (lambda *key: balanced_order(*key, LABELS), lambda *key: block_order(*key, storage)):
        assert np.array_equal(order(1, 2), order(1, 2))
        assert not np.array_equal(order(1, 2), order(1, 3)) and not np.array_equal(order(1, 2), order(2, 2))


def test_block_order_has_every_sample_once_and_neighbors_within_a_window(monkeypatch):
    monkeypatch.setattr(module, "BLOCK", 10)
    monkeypatch.setattr(module, "WINDOW", 3)
    storage = np.random.default_rng(0).permutation(100)
    order = block_order(0, 0, storage)[:, 0]
    assert sorted(order) == list(range(100))
    place = np.argsort(storage)[order] // 10  # block of each sample
    assert [len(set(place[first : first + 30])) for first in (0, 30, 60)] == [3, 3, 3]
    assert list(place[:30]) != sorted(place[:30])
