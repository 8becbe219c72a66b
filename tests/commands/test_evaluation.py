"""dat-eval from the command line: numbers, settings, and files of every kind as checkpoint."""

import json
import pickle
import re
import shutil
import warnings

import pytest
import torch
from commands.running import run_here, torchrun
from commands.small_checkpoint import TINY, write_small_checkpoint
from golden import FOLDER
from PIL import Image
from safetensors.torch import save_file
from troubleshooting import entry

from dat_train.models import Checkpoint

HERE = ["data.workers=0", "device=cpu"]
NUMBERS = ("top1", "top5", "loss", "images", "unreadable")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with ckpt.pt, of a random tiny model of ten classes with averaged weights, and its images."""
    folder = tmp_path_factory.mktemp("home")
    path = write_small_checkpoint(folder / "ckpt.pt", "ema.decay=0.9")
    content = Checkpoint.open(path).content
    content["ema"] = {name: value + 0.05 * torch.randn(value.shape) for name, value in content["ema"].items()}
    torch.save(content, path)
    _evaluate(folder, "output=first")
    return folder


def _evaluate(folder, *arguments, ckpt="ckpt.pt"):
    """result.json of an evaluation that succeeds."""
    output = next((item.partition("=")[2] for item in arguments if item.startswith("output=")), "eval")
    result = run_here("dat-eval", f"ckpt={ckpt}", *HERE, *arguments, cwd=folder)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1].startswith(f"in {output}: result.json, per_class.csv")
    return json.loads((folder / output / "result.json").read_text())


def refusal(folder, *arguments):
    """The one-line error of dat-eval."""
    result = run_here("dat-eval", *HERE, *arguments, cwd=folder)
    assert result.returncode == 2 and result.stdout == "" and result.stderr.count("\n") == 1, result.stderr
    assert result.stderr.startswith("error: ")
    return result.stderr


def numbers(found):
    return {name: found[name] for name in NUMBERS}


def test_reports_are_written_to_the_output_folder(home):
    assert {path.name for path in (home / "first").iterdir()} == {
        "confused.csv",
        "per_class.csv",
        "result.json",
        "wrong.csv",
        "wrong.png",
    }
    found = json.loads((home / "first" / "result.json").read_text())
    assert found["images"] == 359 and found["model"] == "dat_nano" and found["checkpoint"] == "ckpt.pt"


def test_batches_of_another_size_give_the_same_accuracy(home):
    found = _evaluate(home, "batch_size=7", "output=sevens")
    first = json.loads((home / "first" / "result.json").read_text())
    assert found["batch_size"] == 7 and found["top1"] == first["top1"] and found["top5"] == first["top5"]
    assert found["loss"] == pytest.approx(first["loss"], rel=1e-6)  # kernels round by the size of the batch


@pytest.mark.long
def test_two_processes_give_the_numbers_of_one(home):
    result = torchrun("dat-eval", "ckpt=ckpt.pt", *HERE, "output=two", "batch_size=20", cwd=home)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("top-1") == 1
    two = json.loads((home / "two" / "result.json").read_text())
    one = _evaluate(home, "output=one", "batch_size=20")
    assert two["processes"] == 2
    assert two["loss"] == pytest.approx(one["loss"], rel=1e-6)
    assert numbers(two) | {"loss": 0} == numbers(one) | {"loss": 0}
    for name in ("per_class.csv", "confused.csv"):
        assert (home / "two" / name).read_bytes() == (home / "one" / name).read_bytes()


def test_averaged_and_plain_weights_are_distinguished(home):
    averaged, plain = _evaluate(home, "ema=true", "output=a"), _evaluate(home, "ema=false", "output=b")
    assert "EMA" in averaged["weights"] and "EMA" not in plain["weights"]
    assert averaged["loss"] == json.loads((home / "first" / "result.json").read_text())["loss"] != plain["loss"]


def test_averaged_weights_that_do_not_exist_are_refused(home, tmp_path):
    write_small_checkpoint(tmp_path / "plain.pt")
    shutil.copytree(home / "data", tmp_path / "data")
    refused = refusal(tmp_path, "ckpt=plain.pt", "ema=true")
    assert entry("no-averaged-weights").search(refused), refused


def test_resolution_and_crop_follow_the_settings(home):
    found = _evaluate(home, "img_size=48", "eval.resize=squash", "eval.crop_pct=0.75", "output=view")
    assert (found["img_size"], found["resize"], found["crop_pct"]) == (48, "squash", 0.75)
    first = json.loads((home / "first" / "result.json").read_text())
    assert (first["img_size"], first["resize"], first["crop_pct"]) == (32, "short_side", 1.0)
    assert found["loss"] != first["loss"]


def test_an_image_that_cannot_be_read_is_named_and_left_out(home, tmp_path):
    shutil.copytree(home / "data", tmp_path / "data")
    shutil.copy(home / "ckpt.pt", tmp_path)
    damaged = sorted((tmp_path / "data" / "digits" / "val").rglob("*.png"))[5]
    damaged.write_bytes(damaged.read_bytes()[:30])
    result = run_here("dat-eval", "ckpt=ckpt.pt", *HERE, cwd=tmp_path)
    found = json.loads((tmp_path / "eval" / "result.json").read_text())
    name = str(damaged.relative_to(tmp_path))
    assert found["images"] == 358 and found["unreadable"] == [name]
    assert re.search("unreadable +1 image, left out", result.stdout)
    assert name in result.stdout


def test_other_images_with_other_classes_are_refused(home, tmp_path):
    for name in ("cat", "dog"):
        for part in ("train", "val"):
            (tmp_path / "photos" / part / name).mkdir(parents=True)
            Image.new("RGB", (40, 30)).save(tmp_path / "photos" / part / name / "1.png")
    line = refusal(tmp_path, f"ckpt={home}/ckpt.pt", "data=folder", "data.root=photos")
    assert line == (
        "error: data.root=photos has classes that the model does not have: 'cat', 'dog'; the model has "
        "'0', '1', '2', '3', '4', ... (10)\n"
    )


def test_released_weights_are_evaluated_with_the_settings_of_a_recipe(tmp_path):
    record = json.loads((FOLDER / "dat_cvpr_micro.json").read_text())["config"]
    arguments = {
        "dims": record["dims"],
        "depths": record["depths"],
        "num_heads": record["heads"],
        "blocks": ["".join(letters) for letters in record["stage_spec"]],
        "window_size": record["window_sizes"],
        "groups": [max(groups, 1) for groups in record["groups"]],
        "strides": [max(stride, 1) for stride in record["strides"]],
        "offset_range_factor": [factor if factor > 0 else None for factor in record["offset_range_factor"]],
    }
    text = json.dumps(arguments).replace('"', "").replace(" ", "")
    classes = record["num_classes"]
    data = ["data=fake", f"data.fake_classes={classes}", "data.fake_images=100", "img_size=128"]
    model = ["model=dat_t", f"model.img_size={record['img_size']}", f"++model.args={text}"]
    found = _evaluate(tmp_path, *model, *data, ckpt=FOLDER / "official_dat_cvpr_micro.pth")
    assert "renamed" in found["weights"] or "released" in found["weights"]
    line = refusal(tmp_path, f"ckpt={FOLDER / 'official_dat_cvpr_micro.pth'}")
    assert "has no training settings: add model=NAME (one of convnext_t," in line and "and data=NAME" in line
    assert "another architecture" in refusal(
        tmp_path, f"ckpt={FOLDER / 'official_dat_cvpr_micro.pth'}", "model=dat_nano", *data
    )


class Hostile:
    """A pickle that would make a file when loaded."""

    def __reduce__(self):
        return open, ("executed", "w")


def test_files_that_are_not_checkpoints_give_one_line_and_execute_nothing(home, tmp_path):
    whole = (home / "ckpt.pt").read_bytes()
    (tmp_path / "truncated.pt").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.pt").write_text("I am no checkpoint\n")
    (tmp_path / "empty.pt").write_bytes(b"")
    (tmp_path / "hostile.pt").write_bytes(pickle.dumps({"model": Hostile()}))
    torch.save({"model": Hostile()}, tmp_path / "hostile_zip.pt")
    torch.save({"numbers": [1, 2]}, tmp_path / "other.pt")
    (tmp_path / "broken.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{}      ")
    (tmp_path / "folder.pt").mkdir()
    for name in [*(path.name for path in sorted(tmp_path.iterdir())), "missing.pt"]:
        with warnings.catch_warnings(action="error"):  # torch's would stand above the one line
            assert name in refusal(tmp_path, f"ckpt={name}")
    assert not (tmp_path / "executed").exists() and not (tmp_path / "eval").exists()


def test_safetensors_are_evaluated_as_named(home, tmp_path):
    weights = Checkpoint.open(home / "ckpt.pt").content["ema"]
    save_file({name: value.contiguous() for name, value in weights.items()}, tmp_path / "model.safetensors")
    shutil.copytree(home / "data", tmp_path / "data")
    settings = ["model=dat_nano", TINY, "data=digits", "eval.crop_pct=1.0"]
    found = _evaluate(tmp_path, *settings, ckpt="model.safetensors")
    assert found["top1"] == json.loads((home / "first" / "result.json").read_text())["top1"]
