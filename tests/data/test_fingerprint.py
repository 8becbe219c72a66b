"""Fingerprint of the data: equal for the same images in any place; differences are described."""

import json

from data.files import write_images

from dat_train.data.fingerprint import data_difference, data_fingerprint, describe_data
from dat_train.data.storages.sources import open_datasets


def made(root, cats=6, dogs=5, val=2, suffix=".png"):
    for part, counts in (("train", (cats, dogs)), ("val", (val, val))):
        for name, count in zip(("cat", "dog"), counts, strict=True):
            write_images(root / part / name, count, suffix)
    return root


def fingerprint(root):
    return data_fingerprint(*open_datasets("folder", root))


def test_the_fingerprint_does_not_depend_on_root_or_file_format(tmp_path):
    here = fingerprint(made(tmp_path / "here"))
    assert here == fingerprint(made(tmp_path / "there", suffix=".bmp"))
    assert json.loads(json.dumps(here)) == here
    assert data_difference(here, json.loads(json.dumps(here))) is None
    assert here["train"]["per_class"] == [6, 5]


def test_differences_are_described(tmp_path):
    before = fingerprint(made(tmp_path / "a"))
    after = fingerprint(made(tmp_path / "b", cats=9, val=3))
    assert data_difference(before, after) == (
        "training: 11 images -> 14 (cat 6 -> 9); validation: 4 images -> 6 (cat 2 -> 3, dog 2 -> 3)"
    )
    root = made(tmp_path / "c")
    (root / "train/cat/0.png").rename(root / "train/cat/new.png")
    assert data_difference(before, fingerprint(root)) == (
        "training: as many images of each class, with other file names"
    )
    for part in ("train", "val"):
        (root / part / "cat").rename(root / part / "kitten")
    assert data_difference(before, fingerprint(root)) == "classes: without cat, with the new kitten"


def test_the_plan_of_a_run_has_class_names_and_counts(tmp_path):
    made(tmp_path)
    (tmp_path / "train/cat/notes.txt").touch()
    rows = describe_data(*open_datasets("folder", tmp_path))
    assert rows == [
        ("classes", "cat (6), dog (5)"),
        ("note", f"{tmp_path}/train: files that are not images: 1 (1 .txt)"),
    ]


def test_a_single_class_is_said(tmp_path):
    write_images(tmp_path / "cat", 6)
    sets = open_datasets("folder", tmp_path, val_fraction=0.3)
    assert any("there is only one class" in text for _, text in describe_data(*sets))
    assert len(describe_data(*open_datasets("folder", made(tmp_path / "two")))) == 1
