"""Image folders: what is found in them, how one is split, and what is said about those that are wrong."""

import os
import time
from pathlib import Path

import pytest
from data.files import write_images

from dat_train.data.dataset import ImageDataset
from dat_train.data.folders import open_folders, scan, split
from dat_train.errors import UserError


def opened(root, val_fraction=0.25, split_seed=0):
    return open_folders(root, val_fraction=val_fraction, split_seed=split_seed)


def names(dataset, root):
    return [(str(Path(path).relative_to(root)), label) for path, label in dataset.samples]


def touch(*paths):
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def complaint(root, **settings):
    with pytest.raises(UserError) as caught:
        opened(root, **settings)
    text = str(caught.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize("val", ["val", "validation"])
def test_train_and_val_are_taken_as_they_are(val, tmp_path):
    for part, number in (("train", 3), (val, 1)):
        for name in ("dog", "cat"):
            write_images(tmp_path / part / name, number)
    train, held_out = opened(tmp_path)
    assert train.classes == held_out.classes == ["cat", "dog"]
    assert names(train, tmp_path / "train")[2:4] == [("cat/2.png", 0), ("dog/0.png", 1)]
    assert names(held_out, tmp_path / val) == [("cat/0.png", 0), ("dog/0.png", 1)]
    assert train.stand_in and not held_out.stand_in


def test_a_validation_that_lacks_classes_keeps_the_labels_of_training(tmp_path):
    touch(*(tmp_path / "train" / name / "a.jpg" for name in "abc"), tmp_path / "val/c/x.jpg")
    train, held_out = opened(tmp_path)
    assert held_out.classes == train.classes
    assert held_out.samples[0][1] == 2


def test_what_counts_as_an_image(tmp_path):
    files = ["a/1.JPG", "a/2.jPeG", "a/deep/er/3.webp", "a/._1.JPG", "a/.hidden.png", "a/notes.txt", "a/Thumbs.db"]
    files += ["a/.thumbnails/1.jpg", ".git/x.png", "b/1.tiff", "loose.png"]
    touch(*(tmp_path / name for name in files))
    classes, samples = scan(tmp_path)
    assert classes == ["a", "b"]
    found = [str(Path(path).relative_to(tmp_path)) for path, _ in samples]
    assert found == ["a/1.JPG", "a/2.jPeG", "a/deep/er/3.webp", "b/1.tiff"]


def test_linked_class_folders_are_followed_and_circles_walked_once(tmp_path):
    touch(tmp_path / "elsewhere/1.png", tmp_path / "set/a/1.png")
    (tmp_path / "set/b").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "set/a/round").symlink_to(tmp_path / "set/a")
    (tmp_path / "set/a/back").symlink_to(tmp_path / "set")
    classes, samples = scan(tmp_path / "set")
    assert classes == ["a", "b"]
    assert [path for path, label in samples if label == 1] == [str(tmp_path / "set/b/1.png")]
    assert len({os.path.realpath(path) for path, _ in samples}) == len(samples) - 1  # b lies below a/back too


def test_classes_are_sorted_as_text_as_torchvision_does(tmp_path):
    touch(*(tmp_path / name / "1.png" for name in ("2", "10", "1", "B", "a")))
    assert scan(tmp_path)[0] == ["1", "10", "2", "B", "a"]


def test_names_that_are_not_utf_8_are_found_and_can_be_printed(tmp_path):
    folder = os.fsencode(tmp_path) + b"/caf\xe9"
    os.mkdir(folder)  # noqa: PTH102  bytes
    write_images(Path(os.fsdecode(folder)), 2)
    dataset = ImageDataset(scan(tmp_path)[1], scan(tmp_path)[0])
    assert dataset.classes == ["caf\\xe9"]
    assert dataset.read(1).getpixel((0, 0)) == (1, 1, 1)


def test_the_root_may_be_relative_or_at_home(tmp_path, monkeypatch):
    touch(*(tmp_path / f"photos/a/{i}.png" for i in range(4)))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for root in ("photos", "~/photos"):
        assert [len(part) for part in opened(root)] == [3, 1]


# One folder, split


def test_one_folder_is_split_by_class_and_nothing_is_lost(tmp_path):
    for name, number in (("few", 4), ("many", 40), ("one", 1)):
        touch(*(tmp_path / name / f"{i:02d}.png" for i in range(number)))
    train, held_out = opened(tmp_path)
    counts = [[label for _, label in part.samples].count(k) for part in (train, held_out) for k in range(3)]
    assert counts == [3, 30, 1, 1, 10, 0]
    both = [*train.samples, *held_out.samples]
    assert sorted(both) == sorted(scan(tmp_path)[1])


def test_the_split_follows_from_the_seed_and_a_class_from_itself(tmp_path):
    samples = [(f"{label}/{i}", label) for label in range(3) for i in range(20)]
    assert split(samples, 3, 0.25, 0) == split(samples[::-1][::-1], 3, 0.25, 0)
    assert split(samples, 3, 0.25, 0) != split(samples, 3, 0.25, 1)
    without_the_last = split([sample for sample in samples if sample[1] < 2], 2, 0.25, 0)
    assert without_the_last[1] == [sample for sample in split(samples, 3, 0.25, 0)[1] if sample[1] < 2]
    assert split(samples, 3, 0.25, 0)[1][:5] == PINNED_SPLIT


PINNED_SPLIT = [
    ("0/0", 0),
    ("0/18", 0),
    ("0/19", 0),
    ("0/4", 0),
    ("0/6", 0),
]  # an evaluation years later must hold out the same images


def test_a_million_files_of_a_thousand_classes_are_split_in_seconds():
    samples = [(f"{i % 1000}/{i}", i % 1000) for i in range(100_000)]
    begin = time.process_time()
    train, held_out = split(samples, 1000, 0.1, 0)
    assert time.process_time() - begin < 2  # a pass for each class would take a minute for ImageNet's 1.28 M
    assert (len(train), len(held_out)) == (90_000, 10_000)


# What is wrong


def test_a_root_that_is_not_there_or_not_a_folder(tmp_path):
    assert complaint(tmp_path / "photos") == f"data.root={tmp_path}/photos is not there"
    touch(tmp_path / "photos")
    assert complaint(tmp_path / "photos") == f"data.root={tmp_path}/photos is not a folder"


def test_no_classes(tmp_path):
    touch(tmp_path / "1.png")
    assert complaint(tmp_path) == f"{tmp_path} has no folders in it: each class is a folder of images"


def test_an_empty_class(tmp_path):
    touch(tmp_path / "a/1.png", tmp_path / "b/notes.txt")
    text = complaint(tmp_path)
    assert text.startswith(f"class 'b' has no images: {tmp_path}/b (.jpg, .jpeg, ")
    assert text.endswith("remove or fill it")


def test_an_empty_class_of_validation(tmp_path):
    touch(tmp_path / "train/a/1.png", tmp_path / "val/a/notes.txt")
    assert complaint(tmp_path).startswith(f"class 'a' has no images: {tmp_path}/val/a")


def test_a_class_that_training_does_not_have(tmp_path):
    touch(tmp_path / "train/a/1.png", *(tmp_path / "val" / name / "1.png" for name in "abc"))
    assert complaint(tmp_path) == f"{tmp_path}/val has the class 'b' (2 in all) that train/ does not have"


def test_half_of_a_pair(tmp_path):
    touch(tmp_path / "one/train/a/1.png", tmp_path / "other/validation/a/1.png")
    assert "has train/ but neither val/ nor validation/; or point data.root at train/" in complaint(tmp_path / "one")
    assert complaint(tmp_path / "other") == f"{tmp_path}/other has validation/ but no train/"


def test_nothing_held_out(tmp_path):
    touch(*(tmp_path / f"a/{i}.png" for i in range(4)))
    assert (
        complaint(tmp_path, val_fraction=0.1)
        == "data.val_fraction=0.1 holds out no image of 4; raise it or make a val/ folder"
    )
