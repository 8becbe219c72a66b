"""dat-train with masks and annotation files that are wrong: one line that names the file, the value and the way out."""

import json
import shutil
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from commands.running import run_here
from commands.small_dense_checkpoint import SMALL
from PIL import Image

from dat_train.data.digit_scenes import write_digit_scenes

pytestmark = pytest.mark.long
COMMON = ["dense.channels=8", "data.workers=0", "device=cpu", "batch_size=2", "micro_batch_size=2", "max_steps=1"]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    return write_digit_scenes(tmp_path_factory.mktemp("data") / "scenes", train=2, val=1)


def train(task: str, root: Path, *more: str):
    """Train one step on the scenes in `root`."""
    settings = {
        "segmentation": ["data.kind=masks", "dense.head=semantic_fpn", "steps=1"],
        "detection": ["data.kind=boxes", "dense.head=mask_rcnn", "epochs=1"],
    }
    arguments = [f"experiment=digit_scenes_{task}", SMALL, f"data.root={root}", *COMMON, *settings[task], *more]
    return run_here("dat-train", *arguments, cwd=root)


class Wrong(NamedTuple):
    name: str
    change: object
    message: str


def as_16_bits(values):
    return values.astype(np.uint16)


def turned(path: Path) -> None:
    """Give an image an EXIF orientation of a quarter turn."""
    image, exif = Image.open(path), Image.Exif()
    exif[0x0112] = 6
    image.save(path, exif=exif)


MASKS = [
    Wrong("cropped", lambda values: values[:50], "0000.png is 128 x 50 pixels, its image"),
    Wrong("above", lambda values: values + np.uint8(90), "the 11 classes have the values 0 to 10"),
    Wrong("colors", lambda values: np.repeat(values[..., None], 3, 2), "is a picture of mode RGB, not 8-bit labels"),
    Wrong("16 bits", as_16_bits, "is a picture of mode I;16, not 8-bit labels"),
    Wrong("0 and 255", lambda values: np.where(values, 255, 0).astype(np.uint8), "in place of 255"),
]


@pytest.mark.parametrize("wrong", MASKS, ids=lambda wrong: wrong.name)
def test_masks_that_are_not_labels_of_their_images_are_one_line(wrong, scenes, tmp_path):
    root = shutil.copytree(scenes, tmp_path / "scenes")
    for path in root.glob("masks/*/*.png"):
        Image.fromarray(wrong.change(np.array(Image.open(path)))).save(path)
    result = train("segmentation", root)
    assert result.returncode == 2 and result.stderr.count("\n") == 1, result.stderr
    assert wrong.message in result.stderr


FOLDERS = [
    Wrong("no mask", lambda root: (root / "masks/train/0001.png").unlink(), "1 of 2 images have no mask"),
    Wrong("no class list", lambda root: (root / "classes.txt").unlink(), "needs a class list, one name a line"),
    Wrong("EXIF", lambda root: turned(root / "images/train/0000.png"), "(upright): they must be the same"),
]


@pytest.mark.parametrize("wrong", FOLDERS, ids=lambda wrong: wrong.name)
def test_folders_of_masks_that_are_incomplete_are_one_line(wrong, scenes, tmp_path):
    root = shutil.copytree(scenes, tmp_path / "scenes")
    wrong.change(root)
    result = train("segmentation", root)
    assert result.returncode == 2 and result.stderr.count("\n") == 1 and wrong.message in result.stderr, result.stderr


ANNOTATIONS = [
    Wrong("polygon", lambda c: [a.update(segmentation=[[1, 2]]) for a in c["annotations"]], "at least three points"),
    Wrong("no width", lambda c: c["images"][0].pop("width"), "entry 0 of 'images' has no 'width'"),
    Wrong("no box", lambda c: c["annotations"][0].pop("bbox"), "entry 0 of 'annotations' has no 'bbox'"),
    Wrong("no name", lambda c: c["categories"][0].pop("name"), "entry 0 of 'categories' has no 'name'"),
    Wrong("no list", lambda c: c.update(images=5), "has no list 'images'"),
    Wrong("equal ids", lambda c: c["images"].append(dict(c["images"][0])), "has several images with the id 1"),
    Wrong("no objects", lambda c: c["annotations"].clear(), "none with an object to train on"),
    Wrong("unknown", lambda c: c["annotations"][0].update(category_id=77), "category_id 77, of which one is not in"),
    Wrong("size", lambda c: [image.update(width=500) for image in c["images"]], "its record has 500 x"),
    Wrong("no masks", lambda c: [a.pop("segmentation") for a in c["annotations"]], "set dense.head=retinanet"),
    Wrong(
        "runs", lambda c: [a["segmentation"].update(counts=[1, 2]) for a in c["annotations"]], "belong to another size"
    ),
]


@pytest.mark.parametrize("wrong", ANNOTATIONS, ids=lambda wrong: wrong.name)
def test_annotation_files_that_are_wrong_are_one_line(wrong, scenes, tmp_path):
    root = shutil.copytree(scenes, tmp_path / "scenes")
    path = root / "annotations/instances_train.json"
    content = json.loads(path.read_text())
    wrong.change(content)
    path.write_text(json.dumps(content))
    result = train("detection", root)
    assert result.returncode == 2 and result.stderr.count("\n") == 1 and wrong.message in result.stderr, result.stderr


@pytest.mark.parametrize("task", ["segmentation", "detection"])
def test_unreadable_images_are_replaced_and_counted(task, scenes, tmp_path):
    root = shutil.copytree(scenes, tmp_path / "scenes")
    (root / "images/train/0001.png").write_bytes(b"no image")
    result = train(task, root, "data.max_unreadable=1")
    assert result.returncode == 0, result.stderr
    assert "0001.png" in result.stdout + result.stderr


def test_upernet_with_one_image_at_a_time_is_one_line(scenes, tmp_path):
    arguments = [SMALL, f"data.root={scenes}", "data.kind=masks", *COMMON, "dense.head=upernet", "micro_batch_size=1"]
    result = run_here("dat-train", "experiment=digit_scenes_segmentation", *arguments, cwd=tmp_path)
    assert result.returncode == 2 and result.stderr.count("\n") == 1, result.stderr
    assert "set micro_batch_size=2 (batch_size=2 stays) or dense.head=semantic_fpn" in result.stderr
