"""Test sets for ImageNet models: folders as published by their authors, labels from timm."""

import pytest
from data.files import write_image
from timm.data import ImageNetInfo
from timm.data.real_labels import RealLabelsImagenet

from dat_train.data.storages.imagenet_tests import open_test_set, real_labels, synsets
from dat_train.data.storages.sources import open_datasets
from dat_train.errors import UserError


def make(root, *names):
    for name in names:
        write_image(root / name)
    return root


def labels(dataset):
    return {path.rpartition("/")[2]: label for path, label in dataset.samples}


def test_v2_folders_are_class_numbers_not_names_in_the_order_of_text(tmp_path):
    test_set = open_test_set("imagenet_v2", make(tmp_path, "0/a.png", "10/b.png", "9/c.png", "999/d.png"))
    assert labels(test_set) == {"a.png": 0, "b.png": 10, "c.png": 9, "d.png": 999}
    assert test_set.subset is None and test_set.classes == ImageNetInfo().label_names()


@pytest.mark.parametrize(("kind", "synset", "other"), [
    ("imagenet_a", "n01498041", "n01440764"), ("imagenet_r", "n01443537", "n01440764"),
])  # fmt: skip
def test_a_and_r_have_two_hundred_of_the_classes(kind, synset, other, tmp_path):
    test_set = open_test_set(kind, make(tmp_path, f"{synset}/a.png"))
    assert labels(test_set) == {"a.png": synsets("imagenet").index(synset)}
    assert len(set(test_set.subset)) == 200 and labels(test_set)["a.png"] in test_set.subset
    with pytest.raises(UserError, match=f"the folder '{other}', which is not a class of {kind}"):
        open_test_set(kind, make(tmp_path, f"{other}/b.png"))


def test_the_subsets_are_those_timm_lists():
    from importlib.resources import files

    for kind in ("imagenet_a", "imagenet_r"):
        listed = (files("timm.data") / "_info" / f"{kind}_indices.txt").read_text().split()
        assert [synsets("imagenet").index(name) for name in synsets(kind)] == [int(number) for number in listed]


def test_sketch_has_all_classes(tmp_path):
    test_set = open_test_set("imagenet_sketch", make(tmp_path / "sketch", "n01440764/a.png", "n15075141/b.png"))
    assert labels(test_set) == {"a.png": 0, "b.png": 999} and test_set.subset is None
    with pytest.raises(UserError, match=r"not a class of imagenet_sketch .*; did you mean data.root=.*/sketch\?"):
        open_test_set("imagenet_sketch", tmp_path)


def test_real_labels_are_several_one_or_none(tmp_path):
    first = [f"ILSVRC2012_val_{number:08d}.JPEG" for number in range(1, 7)]
    make(tmp_path, *(f"val/n01440764/{name}" for name in first))
    test_set = open_test_set("imagenet_real", tmp_path)
    names = [path.rpartition("/")[2] for path, _ in test_set.samples]
    assert names == first[1:]  # nothing in the first image had people's agreement
    assert [sorted({*row} - {-1}) for row in test_set.right.tolist()] == [sorted(row) for row in real_labels()[1:6]]
    assert labels(open_test_set("imagenet_real", tmp_path / "val")) == labels(test_set)
    theirs = RealLabelsImagenet([f"ILSVRC2012_val_{n:08d}.JPEG" for n in range(1, 50_001)]).real_labels
    assert all(set(theirs[name]) == {*row.tolist()} - {-1} for name, row in zip(names, test_set.right, strict=True))


def test_real_refuses_other_images(tmp_path):
    with pytest.raises(UserError, match="no ImageNet validation images"):
        open_test_set("imagenet_real", tmp_path)
    with pytest.raises(UserError, match="is not an ImageNet validation image: these are named"):
        open_test_set("imagenet_real", make(tmp_path, "val/cat.png"))


def test_there_is_nothing_to_train_on(tmp_path):
    train_set, test_set = open_datasets("imagenet_v2", str(make(tmp_path, "3/a.png")))
    assert (len(train_set), len(test_set)) == (0, 1)
    with pytest.raises(UserError, match="does not exist"):
        open_datasets("imagenet_v2", str(tmp_path / "absent"))
