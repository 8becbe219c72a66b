"""dat-check: unreadable images, duplicates between splits, missing images of ImageNet, and the exit code."""

import json
import os
import shutil

import pytest
from commands.running import run_here
from data.files import write_images


@pytest.fixture
def photos(tmp_path):
    for part, number in (("train", 5), ("val", 3)):
        for name in ("cat", "dog"):
            paths = write_images(tmp_path / "photos" / part / name, number)
            for index, path in enumerate(paths):  # content of its own
                path.write_bytes(path.read_bytes() + f"{part}{name}{index}".encode())
    return tmp_path / "photos"


def check(folder, *arguments):
    result = run_here("dat-check", *arguments, cwd=folder)
    report = folder / "check.json"
    return result, json.loads(report.read_text()) if report.exists() else None


def test_whole_data_have_no_problems(photos):
    result, report = check(photos.parent, "data.root=photos", "workers=2")
    assert result.returncode == 0, result.stderr
    assert "train: 10 images; 2 classes of 5 images; 8 x 8 pixels" in result.stdout
    assert "no problems found" in result.stdout
    assert report["splits"]["val"]["classes"] == {"cat": 3, "dog": 3}


def test_unreadable_images_and_duplicates_are_named(photos):
    (photos / "train/cat/0.png").write_bytes(b"no image")
    (photos / "train/cat/note.txt").touch()
    os.mkfifo(photos / "train/cat/pipe.png")
    shutil.copy(photos / "train/dog/1.png", photos / "val/cat/copy.png")
    result, report = check(photos.parent, "data=folder", "data.root=photos", "workers=0")
    assert result.returncode == 1
    assert "photos/train/cat/0.png: UnidentifiedImageError" in result.stdout
    assert "the same image: photos/train/dog/1.png and photos/val/cat/copy.png" in result.stdout
    assert "problem: train: 1 of 10 images cannot be read" in result.stdout
    assert "files that are not images: 1 (1 .txt)" in result.stdout
    assert "problem: images with the same content in two splits: 1" in result.stdout
    assert report["duplicates"] == [["photos/train/dog/1.png", "photos/val/cat/copy.png"]]
    assert len(report["problems"]) == 2


def test_imagenet_is_compared_with_a_whole_copy(photos):
    result, _ = check(photos.parent, "data=imagenet", "data.root=photos", "workers=0")
    assert result.returncode == 1
    assert "problem: train: 10 images, a whole copy has 1,281,167" in result.stdout
    assert "problem: val: 1,000 of 1,000 classes are missing (n01440764, n01443537, " in result.stdout
    assert "problem: train: 2 classes are not in ImageNet-1K (cat, dog)" in result.stdout
    assert "problem: train: 2 classes do not have 732 to 1,300 images (cat (5), dog (5))" in result.stdout
    assert "problem: val: 2 classes do not have 50 images (cat (3), dog (3))" in result.stdout


def test_an_archive_is_checked_in_place(photos, monkeypatch):
    monkeypatch.setenv("DAT_TRAIN_CACHE", str(photos.parent / "cache"))
    shutil.make_archive(str(photos), "tar", photos)
    result, report = check(photos.parent, "data.root=photos.tar", "workers=0")
    assert result.returncode == 0 and report["splits"]["train"]["images"] == 10


def test_data_that_cannot_be_opened_are_refused_in_one_line(tmp_path):
    result, _ = check(tmp_path, "data.root=nothing")
    assert result.returncode == 2 and result.stderr.startswith("error: data.root=nothing does not exist")


def test_data_of_other_tasks_are_refused_in_one_line(photos):
    result, _ = check(photos.parent, "data=masks", "data.root=photos")
    assert result.returncode == 2
    assert result.stderr == "error: data=masks is not for classification; dat-check reads images in classes\n"
