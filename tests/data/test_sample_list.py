"""Compact list of a million image names."""

import gc
import os
import pickle
import sys

import pytest

from dat_train.data.sample_list import SampleList

PAIRS = [("a/1.png", 0), ("", 3), ("a/ü.jpg", 1), (os.fsdecode(b"a/caf\xe9.jpg"), 2)]


def test_the_list_equals_its_pairs():
    samples = SampleList(iter(PAIRS))
    assert list(samples) == PAIRS
    assert [samples[i] for i in range(len(samples))] == PAIRS
    assert samples[-1] == PAIRS[-1]
    assert PAIRS[2] in samples
    assert all(type(label) is int for _, label in samples)
    for index in (4, -5):
        with pytest.raises(IndexError):
            samples[index]
    assert list(SampleList([])) == []


def test_the_list_can_be_sent_to_other_processes():
    assert list(pickle.loads(pickle.dumps(SampleList(PAIRS)))) == PAIRS


def test_the_list_has_no_object_for_each_image():
    # each would be copied into each data worker as soon as the worker looks at it
    paths = [f"/data/imagenet/train/n01440764/n01440764_{i}.JPEG" for i in range(10_000)]
    samples = SampleList((path, i % 10) for i, path in enumerate(paths))
    assert all(not isinstance(value, list | tuple | dict) for value in vars(samples).values())
    used = sum(sys.getsizeof(value) for value in vars(samples).values())
    assert used < sum(map(len, paths)) + 17 * len(paths)
    before = len(gc.get_objects())
    assert [samples[i][1] for i in range(10)] == list(range(10))
    assert len(gc.get_objects()) - before < 10
