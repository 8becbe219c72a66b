"""dat-eval on test sets other than the validation set, and at several resolutions."""

import csv
import json

import pytest
from commands.running import run_here
from commands.small_checkpoint import write_small_checkpoint
from data.files import write_image

from dat_train.data.storages.imagenet_tests import synsets

HERE = ["data.workers=0", "device=cpu"]
FAKE = ["data=fake", "data.fake_images=40", "data.fake_classes=10", "data.val_fraction=0.5"]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A random tiny model of ImageNet's classes, and a few images of each test set."""
    folder = tmp_path_factory.mktemp("sets")
    write_small_checkpoint(folder / "ckpt.pt", classes=synsets("imagenet"))
    write_small_checkpoint(folder / "digits.pt")
    for name in ("v2/7/a", "a/n01498041/a", "r/n01443537/a", "sketch/n01440764/a"):
        write_image(folder / f"{name}.png")
    for number in range(1, 5):
        write_image(folder / "real" / "val" / f"ILSVRC2012_val_{number:08d}.JPEG")
    return folder


@pytest.mark.parametrize(("name", "images"), [("v2", 1), ("a", 1), ("r", 1), ("sketch", 1), ("real", 3)])
def test_every_set_is_evaluated(name, images, home):
    settings = [f"data=imagenet_{name}", f"data.root={name}", f"output=reports/{name}"]
    result = run_here("dat-eval", "ckpt=ckpt.pt", *settings, *HERE, cwd=home)
    assert result.returncode == 0, result.stderr
    found = json.loads((home / "reports" / name / "result.json").read_text())
    assert found["images"] == images and found["data"] == f"imagenet_{name}"
    assert found["ece"] is not None and len(found["reliability"]) == 15
    rows = list(csv.DictReader((home / "reports" / name / "confused.csv").open()))
    if name in ("a", "r"):
        assert {row["predicted"] for row in rows} <= set(synsets(f"imagenet_{name}"))


def test_a_model_of_other_classes_and_training_are_refused(home):
    result = run_here("dat-eval", "ckpt=digits.pt", "data=imagenet_v2", "data.root=v2", *HERE, cwd=home)
    assert (
        result.returncode == 2 and "imagenet_v2 has classes that the model does not have: 'n01440764'" in result.stderr
    )
    result = run_here("dat-train", "model=dat_nano", "data=imagenet_v2", "data.root=v2", cwd=home)
    assert result.returncode == 2 and "is a test set, for dat-eval" in result.stderr


def test_several_resolutions_make_a_table(home):
    result = run_here("dat-eval", "ckpt=digits.pt", "img_sizes=[32,40]", "output=sizes", *FAKE, *HERE, cwd=home)
    assert result.returncode == 0, result.stderr
    rows = list(csv.DictReader((home / "sizes" / "resolutions.csv").open()))
    assert [row["img_size"] for row in rows] == ["32", "40"]
    for row in rows:
        one = json.loads((home / "sizes" / row["img_size"] / "result.json").read_text())
        assert float(row["top1"]) == one["top1"] and one["img_size"] == int(row["img_size"])
    single = run_here("dat-eval", "ckpt=digits.pt", "img_size=40", "output=single", *FAKE, *HERE, cwd=home)
    assert single.returncode == 0
    alone = json.loads((home / "single" / "result.json").read_text())
    assert (alone["top1"], alone["loss"]) == (float(rows[1]["top1"]), float(rows[1]["loss"]))
    assert "pixels" in result.stdout and result.stdout.splitlines()[-1].startswith("in sizes: resolutions.csv")


def test_impossible_resolutions_are_refused(home):
    result = run_here("dat-eval", "ckpt=digits.pt", "img_sizes=[32,0]", cwd=home)
    assert result.returncode == 2 and "img_sizes=[32, 0] must be numbers greater than 0" in result.stderr
