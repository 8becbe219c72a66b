"""Held-out images of a folder without splits, and the choice of the images to evaluate."""

import time
from dataclasses import replace

import numpy as np
import pytest
from data.files import write_images

from dat_train.data.sample_list import SampleList
from dat_train.data.storages.catalog import Catalog
from dat_train.data.storages.folders import scan
from dat_train.data.storages.sources import open_datasets, open_evaluation_set
from dat_train.data.storages.splits import HoldOut
from dat_train.errors import UserError


def touch(*paths):
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def catalog(counts):
    samples = [(f"base/{label}/{i:03d}.png", label) for label, count in enumerate(counts) for i in range(count)]
    return Catalog([str(label) for label in range(len(counts))], SampleList(samples), "base")


def held_out(catalog, **settings):
    part = HoldOut(**settings).part(catalog)
    return {path for (path, _), chosen in zip(catalog.samples, part, strict=True) if chosen}


@pytest.mark.parametrize("by", ["name", "order"])
def test_about_the_fraction_of_each_class_is_held_out_and_nothing_is_lost(by, tmp_path):
    for name, number in (("few", 4), ("many", 400), ("one", 1)):
        touch(*(tmp_path / name / f"{i:02d}.png" for i in range(number)))
    train, val = open_datasets("folder", tmp_path, val_fraction=0.25, split_by=by)
    counts = [[label for _, label in part.samples].count(k) for part in (train, val) for k in range(3)]
    assert counts[2] == 1 and 270 <= counts[1] <= 330 and counts[0] >= 1
    if by == "order":
        assert counts == [3, 300, 1, 1, 100, 0]
    assert sorted([*train.samples, *val.samples]) == sorted(scan(tmp_path).samples)


def test_added_images_and_classes_move_no_image_between_training_and_validation():
    before, after = catalog([40, 30]), catalog([90, 30, 50])
    old = held_out(before)
    assert old == {path for path in held_out(after) if path in {path for path, _ in before.samples}}
    assert held_out(before, by="order") != old


def test_the_held_out_images_do_not_depend_on_root_or_suffix():
    moved = catalog([40])
    moved = Catalog(moved.classes, SampleList((path.replace("base/", "/x/").replace(".png", ".jpg"), label)
                                              for path, label in moved.samples), "/x")  # fmt: skip
    assert [HoldOut().part(moved).tolist()] == [HoldOut().part(catalog([40])).tolist()]


def test_another_seed_holds_out_others():
    assert held_out(catalog([100])) != held_out(catalog([100]), seed=1)


@pytest.mark.parametrize(("by", "pinned"), [
    ("name", ["base/0/003.png", "base/0/009.png", "base/0/013.png", "base/0/016.png", "base/0/019.png"]),
    ("order", ["base/0/000.png", "base/0/004.png", "base/0/006.png", "base/0/018.png", "base/0/019.png"]),
])  # fmt: skip
def test_the_held_out_images_are_the_same_in_every_version(by, pinned):
    assert sorted(held_out(catalog([20]), fraction=0.25, by=by)) == pinned


def test_a_small_set_has_validation_images_and_each_class_keeps_one_for_training():
    for size in range(2, 12):
        part = HoldOut(0.01).part(catalog([size]))
        assert 1 <= part.sum() < size
        part = HoldOut(0.99).part(catalog([size, size, 1]))
        labels = catalog([size, size, 1]).samples.labels
        assert all((~part[labels == label]).sum() >= 1 for label in range(3))


def test_a_small_set_of_several_labels_has_a_validation_image_and_each_class_keeps_one_for_training():
    for size in range(2, 12):
        targets = np.ones((size, 2), bool)
        targets[1:, 1] = False  # the first image alone has the second label
        few = replace(catalog([size]), targets=targets, classes=["a", "b"])
        part = HoldOut(0.01).part(few)
        assert part.sum() == 1 and not part[0]
    with pytest.raises(UserError, match="holds out none of 2 images"):
        HoldOut(0.01).part(replace(catalog([2]), targets=np.eye(2, dtype=bool), classes=["a", "b"]))


def test_nothing_held_out():
    for settings in ({"fraction": 0.0}, {"fraction": 0.1, "by": "order"}):
        with pytest.raises(UserError, match=r"holds out none of 4 images; raise it, or make a val/ folder"):
            HoldOut(**settings).part(catalog([4]))


@pytest.mark.parametrize("by", ["name", "order"])
def test_a_large_set_is_split_in_seconds(by):
    large = catalog([100] * 1000)
    begin = time.process_time()
    part = HoldOut(by=by).part(large)
    assert time.process_time() - begin < 4
    assert part.sum() == pytest.approx(10_000, abs=300)


# Evaluation


def evaluated(root, **settings):
    return open_evaluation_set("folder", root, **settings)


@pytest.mark.parametrize("name", ["val", "Valid", "validation", "VAL", "test", "Testing"])
def test_a_split_is_evaluated_without_a_training_set(name, tmp_path):
    write_images(tmp_path / name / "a", 3)
    images = evaluated(tmp_path)
    assert len(images) == 3 and not images.training
    assert images.notes == (f"{name}/ is evaluated",)


def test_a_folder_without_splits_is_evaluated_as_a_whole(tmp_path):
    for name in "ab":
        write_images(tmp_path / name, 12)
    assert len(evaluated(tmp_path)) == 24
    part = evaluated(tmp_path, hold_out=HoldOut(0.25))
    _, val = open_datasets("folder", tmp_path, val_fraction=0.25)
    assert list(part.samples) == list(val.samples)
    assert part.notes[0].startswith(f"{len(val)} of 24 images: those the training run held out")
    assert len(evaluated(tmp_path, hold_out=HoldOut(0.25), split="all")) == 24


def test_the_split_can_be_chosen_and_no_other_is_read(tmp_path):
    write_images(tmp_path / "Train/a", 4)
    write_images(tmp_path / "val/a", 3)
    write_images(tmp_path / "test/a", 2)
    (tmp_path / "val/empty").mkdir()  # reading val/ is an error
    assert [len(evaluated(tmp_path, split=split)) for split in ("train", "TEST", "testing")] == [4, 2, 2]
    with pytest.raises(UserError, match="class 'empty' has no images"):
        evaluated(tmp_path)
    with pytest.raises(UserError, match=r"data.split=dev is not in .*; it has Train, test, val"):
        evaluated(tmp_path, split="dev")
    (tmp_path / "val/empty").rmdir()
    assert evaluated(tmp_path).notes == ("val/ is evaluated; there is also Train, test",)


def test_a_split_of_a_folder_without_splits(tmp_path):
    write_images(tmp_path / "a", 2)
    with pytest.raises(UserError, match=r"data.split=val is not in .*; it has no splits; leave data.split out"):
        evaluated(tmp_path, split="val")


def test_a_training_split_alone_is_evaluated_only_on_request(tmp_path):
    write_images(tmp_path / "train/a", 2)
    with pytest.raises(UserError, match=r"has only train; data.split=train evaluates it"):
        evaluated(tmp_path)
