"""Kinds of data: digits written once, fake images from their index, errors about a missing root."""

import multiprocessing
import os

import numpy as np
import pytest
from sklearn.datasets import load_digits

from dat_train.choices import CLASSIFICATION_KINDS
from dat_train.data.generated import digits
from dat_train.data.generated.digits import write_digits
from dat_train.data.micro_batches import SampleKey
from dat_train.data.storages.sources import open_datasets
from dat_train.errors import UserError

SPLIT = {"val_fraction": 0.2, "split_seed": 0}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return write_digits(tmp_path_factory.mktemp("data") / "digits", **SPLIT)


def files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def error_of(*arguments, **settings):
    with pytest.raises(UserError) as caught:
        open_datasets(*arguments, **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Digits


def test_digits_are_the_real_ones_and_a_fifth_of_each_is_held_out(written):
    train, val = open_datasets("digits", str(written), **SPLIT)
    assert train.classes == val.classes == list("0123456789")
    assert (len(train), len(val)) == (1438, 359)
    held_out = np.bincount([label for _, label in val.samples])
    assert held_out.min() >= 34 and held_out.max() <= 37
    real = load_digits()
    for index in (0, 700):
        path, label = train.samples[index]
        number = int(path.rpartition("/")[2][:4])
        gray = np.asarray(train.read(index))[..., 0]
        assert np.array_equal((gray / 255 * 16).round(), real.images[number])
        assert real.target[number] == label


def test_no_digit_is_in_both_parts_or_in_none(written):
    numbers = sorted(int(path.stem) for path in written.rglob("*.png"))
    assert numbers == list(range(1797))


def test_they_are_written_once(written, monkeypatch):
    before = {path: path.stat().st_mtime_ns for path in written.rglob("*")}
    monkeypatch.setattr(digits, "_write", None)
    assert write_digits(written, **SPLIT) == written
    assert {path: path.stat().st_mtime_ns for path in written.rglob("*")} == before


def test_an_existing_folder_with_another_split_is_refused(written):
    assert error_of("digits", str(written), val_fraction=0.5) == (
        f"data.root={written} has the digits split by val_fraction=0.2 split_seed=0, not val_fraction=0.5 "
        "split_seed=0; name another folder"
    )


def test_concurrent_writers_leave_one_whole_folder(written, tmp_path):
    root = tmp_path / "deep" / "digits"
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=write_digits, args=(root,), kwargs=SPLIT) for _ in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    assert [writer.exitcode for writer in writers] == [0, 0, 0]
    assert files(root) == files(written)
    assert [path.name for path in root.parent.iterdir()] == ["digits"]  # and no half-written folder


def test_an_empty_folder_is_filled_and_home_is_found(written, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits").mkdir()
    train, _ = open_datasets("digits", "~/digits", **SPLIT)
    assert train.samples[0][0].startswith(f"{tmp_path}/digits/train/0/")
    assert not (tmp_path / "~").exists()


def test_a_folder_with_other_content_is_not_changed(tmp_path):
    (tmp_path / "photo.jpg").touch()
    text = error_of("digits", str(tmp_path), **SPLIT)
    assert text.startswith(f"the digits cannot be written to data.root={tmp_path}: Directory not empty; name a folder")
    assert os.listdir(tmp_path) == ["photo.jpg"]  # noqa: PTH208  names
    assert not list(tmp_path.parent.glob(f".{tmp_path.name}-*"))


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    assert error_of("digits", str(tmp_path / "file/digits"), **SPLIT).startswith(
        f"the digits cannot be written to data.root={tmp_path}/file/digits: "
    )


# Fake


def test_fake_images_follow_from_their_index_alone():
    settings = {"image_size": 40, "fake_images": 30, "fake_classes": 7, "val_fraction": 0.2}
    train, val = open_datasets("fake", **settings)
    again, _ = open_datasets("fake", **settings)
    assert (len(train), len(val), len(train.classes)) == (30, 6, 7)
    assert train.read(9).size == (40, 40) and train.read(9).mode == "RGB"
    assert train.samples[9][1] == 2
    assert np.array_equal(train.read(9), again.read(9))
    assert not np.array_equal(train.read(9), train.read(2))
    assert not np.array_equal(train.read(0), val.read(0))
    assert train.training and not val.training


def test_fake_classes_can_be_told_apart():
    train, val = open_datasets("fake", image_size=16, fake_images=40, fake_classes=4, val_fraction=0.5)

    def colors(dataset):
        return np.array([np.asarray(dataset.read(i)).mean((0, 1)) for i in range(len(dataset))])

    known = colors(train)[:4]
    nearest = np.linalg.norm(colors(val)[:, None] - known, axis=-1).argmin(1)
    assert nearest.tolist() == [label for _, label in val.samples]


def test_fake_images_go_through_the_same_path():
    train, _ = open_datasets("fake", image_size=8, fake_images=4, fake_classes=2)
    train.transform = lambda image: np.asarray(image).shape
    assert train[SampleKey(0, 3, 0)][:4] == ((8, 8, 3), 1, 3, ())


# Roots


def test_an_unknown_kind():
    assert error_of("cifar", "x") == f"data.kind=cifar must be one of {', '.join(CLASSIFICATION_KINDS)}"


@pytest.mark.parametrize("kind", ["digits", "folder", "imagenet"])
def test_no_root(kind):
    assert error_of(kind) == f"data.root is not set: data={kind} needs data.root=PATH"


@pytest.mark.parametrize("kind", ["folder", "imagenet"])
def test_a_root_that_does_not_exist(kind, tmp_path):
    assert error_of(kind, str(tmp_path / "none")) == f"data.root={tmp_path}/none does not exist; {tmp_path} is empty"
