"""dat-check: unreadable images, duplicates between splits, masks and objects that do not fit, and the exit code."""

import json
import multiprocessing
import os
import shutil
import signal

import numpy as np
import pytest
from commands.running import run_here
from data.files import write_images
from PIL import Image

from dat_train.data.checking import check_images
from dat_train.data.dataset import ImageDataset
from dat_train.data.generated.digit_scenes import write_digit_scenes
from dat_train.data.reading.image_files import first_named
from dat_train.errors import UserError


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


class Killing(ImageDataset):
    """Images of which one ends the process that reads it, as the kernel does if the memory is full."""

    def encoded(self, index):
        if index == 20:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().encoded(index)


def test_a_killed_process_is_an_error_of_one_line(photos):
    samples = [(str(photos / "train/cat/0.png"), 0)] * 300
    with pytest.raises(UserError, match=r"^a process of dat-check died, .*: a smaller workers=\.\.\. needs less"):
        list(check_images(Killing(samples, ["cat"]), workers=2))


def test_results_are_in_order_for_any_number_of_processes_which_end_with_the_iterator(photos):
    paths = [str(path) for path in sorted(photos.rglob("*.png"))] * 20
    images = ImageDataset([(path, 0) for path in paths], ["cat"])
    results = check_images(images, workers=2)
    expected = list(check_images(images, workers=0))
    assert next(results) == expected[0] and multiprocessing.active_children()
    results.close()
    assert not multiprocessing.active_children()
    assert list(check_images(images, workers=2)) == expected and len(expected) == 320


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


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    return write_digit_scenes(tmp_path_factory.mktemp("data") / "scenes", train=3, val=2)


def test_masks_are_compared_with_their_images_and_the_classes(scenes, tmp_path):
    root = shutil.copytree(scenes, tmp_path / "scenes")
    whole, report = check(tmp_path, "data=masks", "data.root=scenes", "workers=2")
    pixels = report["splits"]["train"]["pixels"]
    masks = [np.asarray(Image.open(path)) for path in sorted(root.glob("masks/train/*.png"))]
    assert sum(pixels.values()) == sum(mask.size for mask in masks)
    assert report["splits"]["train"]["classes"]["background"] == 3 and whole.stderr == ""
    missing = [name for name, number in pixels.items() if not number]
    expected = [f"train: {len(missing)} of 11 classes do not occur ({first_named(missing)})"] if missing else []
    assert report["problems"] == expected and whole.returncode == bool(missing)
    with (root / "classes.txt").open("a") as file:
        file.write("eleven\n")
    Image.fromarray(masks[0][:50]).save(root / "masks/train/0000.png")
    Image.fromarray(masks[1] + np.uint8(90)).save(root / "masks/train/0001.png")
    (root / "masks/val/0000.png").write_bytes(b"no image")
    result, report = check(tmp_path, "data=masks", "data.root=scenes", "workers=0")
    assert result.returncode == 1
    assert "train/0000.png: scenes/masks/train/0000.png is 128 x 50 pixels, its image" in result.stdout
    assert "the 12 classes have the values 0 to 11" in result.stdout
    assert "val/0000.png: scenes/masks/val/0000.png: UnidentifiedImageError" in result.stdout
    assert "problem: train: 2 of 3 images cannot be used" in result.stdout
    assert report["splits"]["train"]["classes"]["eleven"] == 0 and "of 12 classes do not occur" in result.stdout
    assert "val: 2 images; 12 classes in 0 to 1 images" in result.stdout


def test_objects_are_compared_with_their_images(scenes, tmp_path):
    root = shutil.copytree(scenes, tmp_path / "scenes")
    path = root / "annotations/instances_train.json"
    content = json.loads(path.read_text())
    number = len(content["annotations"])
    content["annotations"][0]["bbox"] = [500, 2, 10, 10]
    content["annotations"][-1]["segmentation"] = [[1, 2]]
    content["images"][0]["width"] += 1
    content["images"].append({"id": 9, "file_name": "sub/absent.png", "width": 40, "height": 40})
    content["categories"].append({"id": 99, "name": "letter"})
    path.write_text(json.dumps(content))
    val = root / "annotations/instances_val.json"
    val.write_text(json.dumps(json.loads(val.read_text()) | {"categories": content["categories"]}))
    result, report = check(tmp_path, "data=boxes", "data.root=scenes", "workers=0")
    assert result.returncode == 1
    assert "train/0000.png: is " in result.stdout and "its record has" in result.stdout
    assert f"0002.png: annotation {number}: an object has a wrong polygon" in result.stdout
    assert "train/sub/absent.png: FileNotFoundError" in result.stdout
    assert f"1 of {number} objects are not trained on: crowds, boxes outside the image" in result.stdout
    assert "1 of 4 images have no object to train on" in result.stdout
    assert "problem: train: 3 of 4 images cannot be used" in result.stdout
    assert report["splits"]["train"]["objects"]["letter"] == 0 and "of 11 classes do not occur" in result.stdout
    objects = report["splits"]["val"]["objects"]
    assert sum(objects.values()) == len(json.loads(val.read_text())["annotations"])


def test_the_task_of_the_data_need_not_be_named(photos):
    result, _ = check(photos.parent, "task=segmentation", "data=masks", "data.root=photos")
    assert result.returncode == 2 and result.stderr.count("\n") == 1
    assert result.stderr.startswith("error: dat-check has no task=segmentation: data=... is enough, as in data=masks")
