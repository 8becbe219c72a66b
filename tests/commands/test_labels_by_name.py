"""Labels are class names: evaluation, averaging and export are right for any order of the folders."""

import json
import shutil

import pytest
from commands.fitted_checkpoint import write_fitted_checkpoint
from commands.running import run_here

from dat_train.models.weights.checkpoint import Checkpoint
from dat_train.runtime.checkpoint_file import write_checkpoint

HERE = ["data.workers=0", "device=cpu"]
NAMES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]  # in another order as text


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """words.pt, a model of digits with words as class names, and folders with images under these names."""
    folder = tmp_path_factory.mktemp("names")
    path = write_fitted_checkpoint(folder / "run")
    content = Checkpoint.open(path).content
    content["classes"] = NAMES
    write_checkpoint(content, folder / "words.pt")
    for number, name in enumerate(NAMES):
        shutil.copytree(folder / "run/digits/val" / str(number), folder / "words/val" / name)
    for name in NAMES[:3]:
        shutil.copytree(folder / "words/val" / name, folder / "three/test" / name)
    return folder


def evaluated(folder, *arguments):
    result = run_here("dat-eval", *arguments, *HERE, cwd=folder)
    assert result.returncode == 0, result.stderr
    return json.loads((folder / "eval/result.json").read_text()), result.stdout


def test_folders_that_sort_in_another_order_give_the_same_accuracy(home):
    plain, _ = evaluated(home, "ckpt=run/checkpoints/best.pt", "output=eval")
    words, _ = evaluated(home, "ckpt=words.pt", "data=folder", "data.root=words")
    assert plain["top1"] == words["top1"] > 70 and plain["images"] == words["images"] == 359


def test_a_test_folder_with_three_classes_is_evaluated_and_the_output_says_so(home):
    found, output = evaluated(home, "ckpt=words.pt", "data=folder", "data.root=three")
    assert found["images"] == 107 and found["top1"] > 70
    assert "test/ is evaluated" in output
    assert (
        "data.root=three: 3 of the 10 classes of the model occur (not three, four, five, six, seven, ... (7))" in output
    )


def test_averaging_maps_by_name(home):
    result = run_here(
        "dat-average", "words.pt", "words.pt", "kind=greedy", "data=folder", "data.root=three", *HERE, cwd=home
    )
    assert result.returncode == 0, result.stderr
    alone, _ = evaluated(home, "ckpt=words.pt", "data=folder", "data.root=three")
    assert f"{alone['top1']:.2f}" in result.stdout and "3 of the 10 classes of the model occur" in result.stdout


def test_the_accuracy_of_an_exported_model_maps_by_name(home):
    arguments = ("ckpt=words.pt", "data=folder", "data.root=three", "validate=true", "output=exported")
    result = run_here("dat-export", *arguments, "data.workers=0", cwd=home)
    assert result.returncode == 0, result.stderr
    assert "data.root=three: 3 of the 10 classes of the model occur" in result.stdout
    accuracies = json.loads((home / "exported/accuracy.json").read_text())
    assert min(row["top1"] for row in accuracies) > 70


def test_the_images_held_out_in_training_are_evaluated(home, tmp_path):
    shutil.copytree(home / "run/digits/val", tmp_path / "digits")
    content = Checkpoint.open(home / "run/checkpoints/best.pt").content
    content["config"]["data"] |= {"kind": "folder", "name": "folder", "root": str(tmp_path / "digits")}
    content["config"]["data"] |= {"val_fraction": 0.2, "split_seed": 3, "split_by": "name"}
    write_checkpoint(content, tmp_path / "split.pt")
    part, output = evaluated(tmp_path, "ckpt=split.pt")
    assert 40 < part["images"] < 100
    assert (
        "those the training run held out (data.val_fraction=0.2, data.split_seed=3); data.split=all takes all" in output
    )
    whole, _ = evaluated(tmp_path, "ckpt=split.pt", "data.split=all")
    assert whole["images"] == 359
    shutil.copytree(tmp_path / "digits", tmp_path / "others")
    others, _ = evaluated(tmp_path, "ckpt=split.pt", "data.root=others")
    assert others["images"] == 359
