"""Result files of an evaluation, and its text on the terminal."""

import csv
import json
import math
import warnings

import pytest
from evaluation.made_up import made_up
from PIL import Image
from rich.cells import cell_len

from dat_train.evaluation.classification_files import confusions, per_class, result_text, write_report
from dat_train.evaluation.confusion_picture import write_confusion

CLASSES = ['fish, "gold"', "Käfer", "鳥", "nothing\nof it"]
#          a label and a prediction each: class 3 has no image
LABELS, PREDICTED = [0, 0, 0, 0, 1, 1, 2, 2], [0, 1, 1, 3, 1, 0, 2, -1]
SAMPLES = [(f"{i}.png", label) for i, label in enumerate(LABELS)]  # no such files: no picture


def rows(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("eval") / "new" / "folder"
    evaluation = made_up(LABELS, PREDICTED, loss=math.nan, unreadable=["bad/é.png"])
    return folder, write_report(evaluation, CLASSES, SAMPLES, folder, {"model": "dat_nano"})


def test_the_result_is_json_without_nan(written):
    folder, result = written[0], dict(written[1])
    assert json.loads((folder / "result.json").read_text(encoding="utf-8")) == result
    reliability = result.pop("reliability")
    assert 0 <= result.pop("ece") <= 100
    assert sum(row["images"] for row in reliability) <= 8
    assert result == {
        "top1": 37.5,
        "top5": 100.0,
        "loss": None,
        "images": 8,
        "unreadable": ["bad/é.png"],
        "model": "dat_nano",
    }
    assert "é" in (folder / "result.json").read_text(encoding="utf-8")


def test_every_class_has_a_row_even_without_images(written):
    assert rows(written[0] / "per_class.csv") == [
        ["index", "name", "images", "correct", "top1"],
        ["0", 'fish, "gold"', "4", "1", "25.0000"],
        ["1", "Käfer", "2", "1", "50.0000"],
        ["2", "鳥", "2", "1", "50.0000"],
        ["3", "nothing\nof it", "0", "0", ""],
    ]


def test_confusions_are_ordered_by_count_then_share_then_class(written):
    assert rows(written[0] / "confused.csv") == [
        ["true", "predicted", "count", "share"],
        ['fish, "gold"', "Käfer", "2", "50.0000"],
        ["Käfer", 'fish, "gold"', "1", "50.0000"],
        ["鳥", "(NaN)", "1", "50.0000"],
        ['fish, "gold"', "nothing\nof it", "1", "25.0000"],
    ]


def test_a_perfect_model_has_no_confusions(tmp_path):
    evaluation = made_up([0, 1], [0, 1])
    assert confusions(evaluation, "ab") == []
    assert [row[-1] for row in per_class(evaluation, "abc")] == [100, 100, None]
    write_report(evaluation, "ab", SAMPLES, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "confused.csv",
        "per_class.csv",
        "result.json",
        "wrong.csv",
    ]
    assert result_text(evaluation, ["a", "b"]) == "top-1 100.00 %   top-2 100.00 %   loss 0.2500   2 images"


def test_terminal_lines_are_aligned_without_trailing_spaces():
    lines = result_text(made_up(LABELS * 200, PREDICTED * 200), CLASSES).splitlines()
    assert lines[0] == "top-1 37.50 %   top-4 100.00 %   loss 0.2500   1,600 images"
    assert lines[2].split() == ["confused", "images", "of", "its", "class"] and len(lines) == 7
    assert {cell_len(line) for line in lines[2:]} == {len(lines[2])} and len(lines[2]) < 80  # 鳥 is two columns wide
    assert all(line == line.rstrip() for line in lines)
    assert lines[-1].startswith('fish, "gold" -> nothing of it  ')


def test_the_terminal_shows_the_first_of_many_confusions():
    labels, predicted = [0, 1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 5, 6, 0]
    lines = result_text(made_up(labels, predicted), "abcdefg").splitlines()
    assert lines[2].startswith("confused (first 5 of 7 pairs)   images") and len(lines) == 8


AWKWARD = ["line\nbreak", "long " * 80, "قطة \u202eevil", "👩‍👩‍👧 family", "tab\tand\x1b[31m", "bytes \udcff"]


def test_awkward_class_names_survive_csv_pictures_and_terminal(tmp_path):
    evaluation = made_up([0, 1, 2, 3, 4, 5] * 2, [1, 2, 3, 4, 5, 0] * 2)
    images = [tmp_path / f"image {i} \udcfe.png" for i in range(12)]
    for path in images:
        Image.new("RGB", (8, 8)).save(path)
    folder = tmp_path / "eval"
    with warnings.catch_warnings(action="error"):  # of matplotlib: missing characters, a layout that does not fit
        write_report(evaluation, AWKWARD, [(str(path), 0) for path in images], folder, {"data_root": "b \udcff"})
        write_confusion(evaluation.labels, evaluation.predicted, AWKWARD, folder / "confusion.png")
    with (folder / "per_class.csv").open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        assert [row["name"] for row in csv.DictReader(file)] == AWKWARD
    with (folder / "wrong.csv").open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        assert [row["path"] for row in csv.DictReader(file)] == list(map(str, images))
    for name in ("wrong.png", "confusion.png"):
        with Image.open(folder / name) as picture:
            picture.load()
    assert json.loads((folder / "result.json").read_text(encoding="utf-8"))["data_root"] == "b \udcff"
    text = result_text(evaluation, AWKWARD)
    text.encode("utf-8")
    assert "\x1b" not in text and "\u202e" not in text and "bytes \\xff" in text
    assert max(map(cell_len, text.splitlines())) < 90
