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

from dat_train.data.generated.digit_scenes import write_digit_scenes

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


def rewritten(root: Path, part: str, change) -> None:
    path = root / f"annotations/instances_{part}.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


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
    Wrong("0 and 255", lambda values: np.where(values, 255, 0).astype(np.uint8), "instead of 255"),
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
    Wrong("two points", lambda c: c["annotations"][3].update(segmentation=[[1, 2, 3, 4]]), "annotation 4 has a wrong"),
    Wrong("flat", lambda c: c["annotations"][0].update(segmentation=[1, 2, 3, 4, 5, 6]), "at least three points"),
    Wrong("text box", lambda c: c["annotations"][0].update(bbox=["1", "2", "3", "4"]), "must be [x, y, width, height]"),
    Wrong(
        "no list box", lambda c: c["annotations"][0].update(bbox=5), "entry 0 of 'annotations': bbox=5 must be a list"
    ),
    Wrong("text height", lambda c: c["images"][0].update(height="96"), "height='96' must be a number"),
    Wrong("number name", lambda c: c["categories"][1].update(name=7), "entry 1 of 'categories': name=7 must be a text"),
    Wrong("equal names", lambda c: c["categories"][1].update(name="0"), "has several categories with the name 0"),
    Wrong("mixed ids", lambda c: c["images"][0].update(id="1"), "ids of images must be numbers alone, or texts alone"),
    Wrong(
        "absent",
        lambda c: [image.update(file_name=f"train/{image['file_name']}") for image in c["images"]],
        "train/train/0000.png does not exist, nor other images: file_name in instances_train.json must be relative",
    ),
]


@pytest.mark.parametrize("wrong", ANNOTATIONS, ids=lambda wrong: wrong.name)
def test_annotation_files_that_are_wrong_are_one_line(wrong, scenes, tmp_path):
    root = shutil.copytree(scenes, tmp_path / "scenes")
    rewritten(root, "train", wrong.change)
    result = train("detection", root)
    assert result.returncode == 2 and result.stderr.count("\n") == 1 and wrong.message in result.stderr, result.stderr


def test_annotations_to_validate_on_are_checked_before_the_training(scenes, tmp_path):
    root = shutil.copytree(scenes, tmp_path / "scenes")
    rewritten(root, "val", lambda c: c["annotations"][1].pop("segmentation"))
    result = train("detection", root)
    assert result.returncode == 2 and "instances_val.json: annotation 2 has no segmentation" in result.stderr
    assert not (root / "runs/digit_scenes_detection/checkpoints/last.pt").exists()


def with_oddities(content: dict) -> None:
    """Add what annotation files may have: it is left out of the training, or counts for nothing."""
    first = content["annotations"][0]
    x, y, width, height = first["bbox"]
    polygon = [x, y, x + width, y, x + width, y + height, x, y + height]
    first["segmentation"] = [polygon, polygon]
    image = next(image for image in content["images"] if image["id"] == first["image_id"])
    whole = {"size": [image["height"], image["width"]], "counts": [0, image["height"] * image["width"]]}
    content["annotations"] += [
        first | {"bbox": [500, 500, 10, 10]},  # outside the image, with the id of another one
        first | {"bbox": [-20, -20, 25, 25], "area": 25},  # across its border
        first | {"bbox": [5, 5, 0, 10], "area": 0},
        first | {"iscrowd": 1, "segmentation": whole},
    ]
    content["categories"].append({"id": 90, "name": "unused"})
    content["images"].append(dict(content["images"][0], id=1000, file_name="more/0000.png"))  # without objects


def test_annotation_files_with_oddities_are_trained_and_validated_on(scenes, tmp_path):
    root = shutil.copytree(scenes, tmp_path / "scenes")
    for part in ("train", "val"):
        (root / "images" / part / "more").mkdir()
        shutil.copy(root / "images" / part / "0000.png", root / "images" / part / "more/0000.png")
        rewritten(root, part, with_oddities)
    result = train("detection", root)
    assert result.returncode == 0, result.stderr
    text = " ".join(result.stdout.split())
    assert "mask AP" in text and "2 images for training, 2 for validation, 11 classes" in text
    assert "1 of 3 images have no object to train on" in text and "3 of " in text, text


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
