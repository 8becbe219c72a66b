"""dat-predict: classes of every image in the given order, in every output format."""

import csv
import io
import json
import os
import pty
import shutil
import subprocess
import sys

import pytest
import torch
from commands.fitted_checkpoint import write_fitted_checkpoint
from commands.running import run_here
from troubleshooting import entry

from dat_train.commands.load_trained import open_trained
from dat_train.data.images import read_rgb


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run folder with a checkpoint that classifies most digits correctly, and images."""
    folder = tmp_path_factory.mktemp("runs") / "digits"
    write_fitted_checkpoint(folder)
    return folder


def predict(run, *arguments, stdin="", ckpt="checkpoints/best.pt"):
    return run_here("dat-predict", f"ckpt={ckpt}", *arguments, cwd=run, stdin=stdin)


def rows(result) -> list[dict]:
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_predictions_are_the_models_in_the_order_of_the_images(run):
    paths = [str(path.relative_to(run)) for name in "382" for path in sorted((run / "digits/val" / name).iterdir())]
    paths = [*paths[::-1], paths[0]]  # in no order of their own, one twice
    result = predict(run, *paths, "format=jsonl", "top=3", "batch_size=16")
    assert result.returncode == 0, result.stderr
    found = rows(result)
    assert [row["path"] for row in found] == paths
    trained = open_trained(run / "checkpoints/best.pt", device="cpu")
    with torch.inference_mode():
        images = torch.stack([trained.transform(read_rgb(run / path)) for path in paths])
        wanted = trained.model(images).softmax(-1).topk(3)
    for row, values, indices in zip(found, *wanted, strict=True):
        assert [guess["index"] for guess in row["top"]] == indices.tolist()
        assert [guess["class"] for guess in row["top"]] == [str(index) for index in indices.tolist()]
        assert [guess["probability"] for guess in row["top"]] == pytest.approx(values.tolist(), abs=1e-5)
    right = sum(row["top"][0]["class"] == path.split("/")[2] for row, path in zip(found, paths, strict=True))
    assert right / len(paths) > 0.6


def test_all_formats_have_the_same_content(run):
    folder = "digits/val/4"
    objects = rows(predict(run, folder, "format=jsonl", "top=2"))
    table = predict(run, folder, "top=2").stdout.splitlines()
    lines = list(csv.reader(io.StringIO(predict(run, folder, "format=csv", "top=2").stdout)))
    assert lines[0] == ["path", "class_1", "probability_1", "class_2", "probability_2"]
    assert len(objects) == len(table) // 2 == len(lines) - 1 == len(list((run / folder).iterdir()))
    for row, text, below, line in zip(objects, table[::2], table[1::2], lines[1:], strict=True):
        first, second = row["top"]
        assert [row["path"], first["class"], second["class"]] == [line[0], line[1], line[3]]
        assert float(line[2]) == pytest.approx(first["probability"], abs=1e-6)
        assert text.split() == [row["path"], f"{100 * first['probability']:.2f}", "%", first["class"]]
        assert below.split() == [f"{100 * second['probability']:.2f}", "%", second["class"]]


def test_unreadable_images_are_reported_skipped_and_change_the_exit_code(run):
    (run / "no image.png").write_text("not an image")
    result = predict(run, "digits/val/1", "no image.png", "digits/val/2", "gone.jpg", "format=csv", "batch_size=8")
    assert result.returncode == 1
    paths = [line.partition(",")[0] for line in result.stdout.splitlines()[1:]]
    wanted = [str(path.relative_to(run)) for name in "12" for path in sorted((run / "digits/val" / name).iterdir())]
    assert paths == wanted
    first, second, last = result.stderr.splitlines()
    assert first.startswith("warning: no image.png: UnidentifiedImageError")
    assert second.startswith("warning: gone.jpg: FileNotFoundError")
    assert last == f"2 of {len(wanted) + 2} images could not be read" and entry("unpredicted").fullmatch(last)


def test_files_folders_patterns_and_a_list_may_be_mixed(run):
    shutil.copy(next((run / "digits/val/5").iterdir()), run / "a [1]=*.png")  # a name, although it looks like a pattern
    listed = "digits/val/6\na [1]=*.png\n\n"
    result = predict(run, "digits/val/[01]/*1.png", "-", "a [1]=*.png", "format=jsonl", stdin=listed)
    assert result.returncode == 0, result.stderr
    fitting = sorted(path for name in "01" for path in (run / "digits/val" / name).glob("*1.png"))
    sixes = sorted((run / "digits/val/6").iterdir())
    wanted = [str(path.relative_to(run)) for path in [*fitting, *sixes]]
    assert [row["path"] for row in rows(result)] == [*wanted, "a [1]=*.png", "a [1]=*.png"]


def test_an_exported_folder_predicts_the_same(run):
    assert run_here("dat-export", "ckpt=checkpoints/best.pt", cwd=run).returncode == 0
    wanted = predict(run, "digits/val/9", "format=csv").stdout
    assert predict(run, "digits/val/9", "format=csv", ckpt="export/safetensors").stdout == wanted
    assert predict(run, "digits/val/9", "format=csv", ckpt="export/safetensors/model.safetensors").stdout == wanted


def test_released_weights_have_the_class_names_of_imagenet(run):
    import timm

    torch.manual_seed(0)
    state = timm.create_model("dat_nano", num_classes=1000, img_size=32).state_dict()
    torch.save({"model": state}, run / "released.pth")
    image = str(next((run / "digits/val/5").iterdir()))
    result = predict(run, image, "model=dat_nano", "top=1000", "format=jsonl", ckpt="released.pth")
    assert result.returncode == 0, result.stderr
    names = {guess["class"] for guess in rows(result)[0]["top"]}
    assert "tench, Tinca tinca" in names and len(names) > 990
    result = predict(run, image, ckpt="released.pth")
    assert result.returncode == 2 and "add model=NAME" in result.stderr


def test_output_goes_into_a_file(run):
    result = predict(run, "digits/val/0", "output=found.csv", "format=csv")
    assert result.returncode == 0 and result.stdout == ""
    assert (run / "found.csv").read_text() == predict(run, "digits/val/0", "format=csv").stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("*.jpeg",), "no file matches *.jpeg"),
        (("empty",), "empty has no images in it (.jpg"),
        (("-",), "the list on standard input names no image"),
        ((), "images is not set: dat-predict IMAGES ..."),
        (("digits/val/0", "format=xml"), "format=xml must be one of table, csv, jsonl"),
        (("digits/val/0", "top=0"), "top=0 must be greater than 0"),
        (("digits/val/0", "output=nowhere/x.csv"), "output=nowhere/x.csv cannot be written: No such file"),
    ],
)
def test_errors_of_the_user_are_named_in_one_line(arguments, message, run):
    (run / "empty").mkdir(exist_ok=True)
    result = predict(run, *arguments)
    assert result.returncode == 2 and result.stderr.count("\n") == 1, result.stderr
    assert message in result.stderr


def test_on_a_terminal_there_is_a_bar_and_the_rows_are_whole(run):
    """In a separate process with a pseudo-terminal for output and errors."""
    ours, theirs = pty.openpty()
    command = [
        "-m",
        "dat_train.cli.main",
        "predict",
        "ckpt=checkpoints/best.pt",
        "digits/val/7",
        "top=1",
    ]
    process = subprocess.Popen([sys.executable, *command], cwd=run, stdout=theirs, stderr=theirs, stdin=theirs)
    os.close(theirs)
    output = b""
    while True:
        try:
            if not (part := os.read(ours, 4096)):
                break
        except OSError:  # the other end was closed
            break
        output += part
    assert process.wait() == 0
    assert "━".encode() in output, "a bar"
    wanted = predict(run, "digits/val/7", "top=1").stdout.splitlines()
    assert all(line.encode() in output for line in wanted)


def test_a_closed_pipe_is_not_an_error(run):
    command = f"{sys.executable} -m dat_train.cli.main predict ckpt=checkpoints/best.pt digits/val top=9 | head -n 1"
    result = subprocess.run(command, shell=True, cwd=run, capture_output=True, text=True)
    assert result.returncode == 0 and result.stderr == "" and result.stdout.startswith("digits/val/0/")
