"""Image folders: classes, splits and images in them, and errors about unusable folders."""

import os
import socket
from pathlib import Path

import pytest
from data.files import write_image, write_images
from PIL import Image
from troubleshooting import entry

from dat_train.data.reading.image_files import SYSTEM_FOLDERS, image_suffixes
from dat_train.data.reading.image_source import sample_key
from dat_train.data.storages.folders import scan
from dat_train.data.storages.sources import open_datasets
from dat_train.errors import UserError


def opened(root, val_fraction=0.25):
    return open_datasets("folder", root, val_fraction=val_fraction)


def names(dataset, root):
    return [(str(Path(path).relative_to(root)), label) for path, label in dataset.samples]


def touch(*paths):
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def error_of(root, **settings):
    with pytest.raises(UserError) as caught:
        opened(root, **settings)
    text = str(caught.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize(
    ("train", "val"),
    [("train", "val"), ("train", "validation"), ("Train", "Val"), ("TRAINING", "Valid"), ("Training", "Testing")],
)
def test_split_folders_are_found_under_their_usual_names_in_any_case(train, val, tmp_path):
    for part, number in ((train, 3), (val, 1)):
        for name in ("dog", "cat"):
            write_images(tmp_path / part / name, number)
    training, held_out = opened(tmp_path)
    assert training.classes == held_out.classes == ["cat", "dog"]
    assert names(training, tmp_path / train)[2:4] == [("cat/2.png", 0), ("dog/0.png", 1)]
    assert names(held_out, tmp_path / val) == [("cat/0.png", 0), ("dog/0.png", 1)]
    assert training.training and not held_out.training
    assert any("Testing/ is the validation set" in note for note in held_out.notes) == (val == "Testing")


def test_two_folders_of_one_split_are_refused(tmp_path):
    touch(*(tmp_path / part / "a/1.png" for part in ("Training", "train", "val")))
    assert error_of(tmp_path) == f"{tmp_path} has Training/ and train/, the same split: merge them, or rename one"


def test_folders_of_images_next_to_the_splits_are_named(tmp_path):
    splits = [tmp_path / part / "a/1.png" for part in ("train", "val")]
    touch(*splits, tmp_path / "more/1.png", tmp_path / "extra/a/1.png", tmp_path / "docs/notes.txt")
    sets = opened(tmp_path)
    note = f"{tmp_path}: folders of images next to the splits, not used: extra, more"
    assert [part.notes for part in sets] == [(note,), (note,)] and [len(part) for part in sets] == [1, 1]


def test_a_validation_set_that_lacks_classes_keeps_the_labels_of_training_and_a_note_says_so(tmp_path):
    touch(*(tmp_path / "train" / name / "a.jpg" for name in "abc"), tmp_path / "val/c/x.jpg")
    train, held_out = opened(tmp_path)
    assert held_out.classes == train.classes
    assert held_out.samples[0][1] == 2
    assert held_out.notes == (f"{tmp_path}/val: 1 of the 3 classes of train/ occur (not a, b)",)


def test_a_class_of_trains_between_other_classes_is_a_class(tmp_path):
    for name in ("bus", "car", "train"):
        write_images(tmp_path / name, 4)
    assert opened(tmp_path)[0].classes == ["bus", "car", "train"]


def test_every_suffix_of_an_image_is_found_and_other_files_are_counted(tmp_path):
    files = ["a/1.JPG", "a/2.jPeG", "a/deep/er/3.webp", "a/._1.JPG", "a/.hidden.png", "a/notes.txt", "a/Thumbs.db"]
    files += ["a/.thumbnails/1.jpg", ".git/x.png", "b/1.tiff", "loose.png", "a/4.jfif", "a/5.avif", "b/6.jp2"]
    files += ["b/LICENSE", "b/x.npy", "b/y.npy", "readme.txt"]
    touch(*(tmp_path / name for name in files))
    catalog = scan(tmp_path)
    assert catalog.classes == ["a", "b"]
    found = [str(Path(path).relative_to(tmp_path)) for path, _ in catalog.samples]
    assert found == ["a/1.JPG", "a/2.jPeG", "a/4.jfif", "a/5.avif", "a/deep/er/3.webp", "b/1.tiff", "b/6.jp2"]
    assert catalog.notes == (
        f"{tmp_path}: files that are not images: 5 (2 .txt, 2 .npy, 1 no suffix)",
        f"{tmp_path}: images outside the class folders, not used: 1",
    )
    assert entry("other-files").fullmatch(catalog.notes[0]) and entry("loose-images").search(catalog.notes[1])


@pytest.mark.parametrize("suffix", [".jfif", ".avif", ".jp2", ".jpe", ".tga", ".ico", ".ppm", ".pcx", ".dds"])
def test_images_with_these_suffixes_can_be_read(suffix, tmp_path):
    assert suffix in image_suffixes()
    (tmp_path / "a").mkdir()
    Image.new("RGB", (16, 16), (200, 10, 10)).save(tmp_path / f"a/1{suffix}")
    image = scan(tmp_path).dataset(training=False).read(0)
    assert image.getpixel((8, 8))[0] > 150


def test_formats_that_pillow_cannot_decode_are_not_images():
    assert not {".h5", ".mpg", ".emf", ".grib"} & image_suffixes()


@pytest.mark.parametrize("folder", ["@eaDir", "__MACOSX", "lost+found", "$RECYCLE.BIN", "#recycle", ".Trashes"])
def test_system_folders_are_neither_classes_nor_read_at_any_depth(folder, tmp_path):
    touch(tmp_path / "a/1.png", tmp_path / folder / "2.png", tmp_path / "a" / folder / "3.png")
    assert folder.startswith(".") or folder.lower() in SYSTEM_FOLDERS
    catalog = scan(tmp_path)
    assert catalog.classes == ["a"] and len(catalog.samples) == 1 and catalog.notes == ()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs FIFOs")
def test_only_regular_files_are_images(tmp_path, monkeypatch):
    write_images(tmp_path / "a", 2)
    os.mkfifo(tmp_path / "a/pipe.png")
    monkeypatch.chdir(tmp_path)  # the path of a socket is at most about 100 bytes long
    socket.socket(socket.AF_UNIX).bind("a/socket.png")
    (tmp_path / "a/link.png").symlink_to(tmp_path / "a/0.png")
    (tmp_path / "a/broken.png").symlink_to(tmp_path / "gone.png")
    catalog = scan(tmp_path)
    assert [Path(path).name for path, _ in catalog.samples] == ["0.png", "1.png", "broken.png", "link.png"]
    assert catalog.notes == (f"{tmp_path}: 2 entries that are not regular files (FIFO, socket, device)",)


def test_linked_class_folders_are_followed_and_circles_are_entered_once(tmp_path):
    touch(tmp_path / "elsewhere/1.png", tmp_path / "set/a/1.png")
    (tmp_path / "set/b").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "set/a/round").symlink_to(tmp_path / "set/a")
    (tmp_path / "set/a/back").symlink_to(tmp_path / "set")
    catalog = scan(tmp_path / "set")
    assert catalog.classes == ["a", "b"]
    assert [path for path, label in catalog.samples if label == 1] == [str(tmp_path / "set/b/1.png")]
    files = [os.path.realpath(path) for path, _ in catalog.samples]
    assert len(set(files)) == len(files) - 1  # b lies below a/back too


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege on Windows")
def test_links_to_themselves_are_broken_links(tmp_path):
    write_image(tmp_path / "cat/1.png")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "cat/loop").symlink_to("loop")
    (tmp_path / "cat/2.png").symlink_to("2.png")
    found = scan(tmp_path)
    assert found.classes == ["cat"] and [path[-5:] for path, _ in found.samples] == ["1.png", "2.png"]
    assert found.notes == (f"{tmp_path}: broken links, not used: loop, loop",)


def test_a_class_on_a_disk_that_is_not_mounted_is_named(tmp_path):
    write_image(tmp_path / "cat/1.png")
    (tmp_path / "dog").symlink_to(tmp_path / "mnt/dog")
    assert scan(tmp_path).notes == (f"{tmp_path}: broken links, not used: dog",)


def test_classes_are_sorted_as_text_as_torchvision_does(tmp_path):
    touch(*(tmp_path / name / "1.png" for name in ("2", "10", "1", "B", "a")))
    assert scan(tmp_path).classes == ["1", "10", "2", "B", "a"]


def test_class_names_that_are_not_utf_8_or_have_a_newline_can_be_printed(tmp_path):
    folder = os.fsencode(tmp_path) + b"/caf\xe9"
    os.mkdir(folder)  # noqa: PTH102  bytes
    write_images(Path(os.fsdecode(folder)), 2)
    write_images(tmp_path / "two\nlines", 1)
    write_images(tmp_path / "white\u3000cat", 1)  # a wide space, and a joiner of emojis, are part of names
    write_images(tmp_path / "\U0001f468\u200d\U0001f33e", 1)
    dataset = scan(tmp_path).dataset(training=True)
    assert dataset.classes == ["caf\\xe9", "two\\nlines", "white\u3000cat", "\U0001f468\u200d\U0001f33e"]
    assert dataset.read(1).getpixel((0, 0)) == (1, 1, 1)
    assert dataset.read(2).getpixel((0, 0)) == (0, 0, 0)


def test_keys_of_names_do_not_depend_on_how_names_are_printed():
    assert sample_key("d/a\u202fPM \u3000\n.png", "d", "x") == r"a\u202fPM \u3000\n"
    assert sample_key(os.fsdecode(b"d/caf\xe9.png"), "d", "x") == r"caf\xe9"


def test_the_root_may_be_relative_or_in_the_home_folder(tmp_path, monkeypatch):
    touch(*(tmp_path / f"photos/a/{i}.png" for i in range(4)))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for root in ("photos", "~/photos"):
        assert [len(part) for part in opened(root)] == [3, 1]


# Messages


def test_a_root_that_does_not_exist_or_is_not_a_folder(tmp_path):
    touch(tmp_path / "Photos")
    assert error_of(tmp_path / "photos/x") == f"data.root={tmp_path}/photos/x does not exist; {tmp_path} has Photos"
    assert error_of(tmp_path / "Photos") == f"data.root={tmp_path}/Photos is not a folder"


def test_no_classes(tmp_path):
    touch(tmp_path / "1.png")
    assert error_of(tmp_path) == f"{tmp_path} has no folders in it: each class is a folder of images"


def test_an_empty_class(tmp_path):
    touch(tmp_path / "a/1.png", tmp_path / "b/notes.txt")
    text = error_of(tmp_path)
    assert text.startswith(f"class 'b' has no images: {tmp_path}/b (.jpg, .jpeg, ")
    assert text.endswith("remove the folder or add images") and entry("empty-class").fullmatch(f"error: {text}")


def test_an_empty_class_of_validation(tmp_path):
    touch(tmp_path / "train/a/1.png", tmp_path / "val/a/notes.txt")
    assert error_of(tmp_path).startswith(f"class 'a' has no images: {tmp_path}/val/a")


def test_a_validation_class_that_training_does_not_have(tmp_path):
    touch(tmp_path / "train/a/1.png", *(tmp_path / "val" / name / "1.png" for name in "abc"))
    assert error_of(tmp_path) == f"{tmp_path}/val has classes that train/ does not have: 'b', 'c'; train/ has 'a'"


def test_half_of_a_pair(tmp_path):
    touch(tmp_path / "one/train/a/1.png", tmp_path / "other/validation/a/1.png")
    text = error_of(tmp_path / "one")
    assert "has train/ but no val/, validation/ or test/; or set data.root to train/" in text
    text = error_of(tmp_path / "other")
    assert text == f"{tmp_path}/other has validation but no train/; to evaluate it use dat-eval"


@pytest.mark.parametrize("levels", [1, 2, 3])
def test_a_root_above_the_class_folders_is_refused_with_the_level_below(levels, tmp_path):
    below = tmp_path.joinpath(*["level"] * levels)
    for part in ("Training", "Testing"):
        for name in ("cat", "dog"):
            write_images(below / part / name, 2)
    text = error_of(tmp_path)
    assert "hold folders and no images, so they are not classes" in text
    assert f"did you mean data.root={below}?" in text
    assert entry("not-classes").search(f"error: {text}")
    assert opened(below)[0].classes == ["cat", "dog"]


def test_a_split_folder_above_the_class_folders_is_refused_with_the_level_below(tmp_path):
    for part in ("train", "val"):
        for name in ("cat", "dog"):
            write_images(tmp_path / part / "images" / name, 2)
    assert f"did you mean data.root={tmp_path}/train/images?" in error_of(tmp_path)


def test_images_without_class_folders_do_not_make_classes_of_the_splits(tmp_path):
    for part in ("train", "val"):
        write_images(tmp_path / part, 2)
    assert error_of(tmp_path) == f"{tmp_path}/train has no folders in it: each class is a folder of images"
