"""Sorting the validation images: from what a user has, to class folders, also after an interruption."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts/data/sort_imagenet_val.py"
SYNSETS = ["n01751748", "n09193705", "n01751748", "n02105855"]
NAMES = [f"ILSVRC2012_val_{i:08d}" for i in range(1, 5)]


@pytest.fixture
def val(tmp_path):
    """Four images, each with its own bytes; and what else may lie there."""
    folder = tmp_path / "val"
    folder.mkdir()
    for name in NAMES:
        (folder / f"{name}.JPEG").write_text(name)
    (folder / "README.txt").touch()
    return folder


@pytest.fixture
def synsets(tmp_path):
    path = tmp_path / "synsets.txt"
    path.write_text("\n".join(SYNSETS) + "\n")
    return path


def sort(*arguments, images=4):
    command = [sys.executable, "-S", SCRIPT, *arguments, "--images", str(images)]  # -S: no installed packages
    return subprocess.run([str(part) for part in command], capture_output=True, text=True)


def complaint(*arguments, **settings):
    result = sort(*arguments, **settings)
    assert result.returncode == 1 and not result.stdout
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1
    return result.stderr[len("error: ") : -1]


def flat(folder):
    return sorted(path.stem for path in folder.glob("*.JPEG"))


def assert_sorted(folder):
    assert flat(folder) == []
    for name, synset in zip(NAMES, SYNSETS, strict=True):
        assert (folder / synset / f"{name}.JPEG").read_text() == name
    assert len(list(folder.glob("*/*"))) == len(NAMES)


def test_a_list_of_synsets_sorts_the_images(val, synsets):
    result = sort(val, synsets)
    assert result.stdout == "4 images moved into 3 folders; 0 were in theirs\n"
    assert_sorted(val)
    assert (val / "README.txt").exists()


def test_kaggles_table_sorts_the_images_in_whatever_order(val, tmp_path):
    rows = [f"{name},{synset} 85 1 499 272 {synset} 9 9 10 10 " for name, synset in zip(NAMES, SYNSETS, strict=True)]
    table = tmp_path / "LOC_val_solution.csv"
    table.write_text("ImageId,PredictionString\r\n" + "\r\n".join(rows[::-1]) + "\r\n")
    assert sort(val, table).returncode == 0
    assert_sorted(val)


def test_an_interrupted_sorting_goes_on(val, synsets):
    (val / SYNSETS[0]).mkdir()
    (val / f"{NAMES[2]}.JPEG").rename(val / SYNSETS[2] / f"{NAMES[2]}.JPEG")
    assert sort(val, synsets).stdout == "3 images moved into 3 folders; 1 were in theirs\n"
    assert_sorted(val)
    assert sort(val, synsets).stdout == "0 images moved into 0 folders; 4 were in theirs\n"
    assert_sorted(val)


def test_a_dry_run_moves_nothing(val, synsets):
    result = sort(val, synsets, "--dry-run")
    assert result.stdout.splitlines()[-1] == "4 images would be moved into 3 folders; 0 are in theirs"
    assert f"{val}/{NAMES[0]}.JPEG -> {val}/{SYNSETS[0]}/{NAMES[0]}.JPEG" in result.stdout
    assert flat(val) == NAMES and not any(path.is_dir() for path in val.iterdir())


def test_numbers_of_classes_are_not_enough(val, synsets):
    synsets.write_text("490\n361\n171\n822\n")
    assert "has numbers of classes, whose meaning meta.mat says; take LOC_val_solution.csv" in complaint(val, synsets)
    assert flat(val) == NAMES


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"\n".join([b"n01751748"] * 3), "has labels of 3 images, not of 4"),
        (b"n01751748\ntench\n", "line 2: 'tench' is no synset like n01751748"),
        (b"ImageId,PredictionString\nILSVRC2012_val_00000001\n", "has the row 'ILSVRC2012_val_00000001'; wanted"),
        (b"MATLAB 5.0\x00\xff", "is no text"),
        (b"", "has labels of 0 images"),
    ],
)
def test_labels_that_are_none_are_refused_before_anything_moves(content, reason, val, synsets):
    synsets.write_bytes(content)
    assert reason in complaint(val, synsets)
    assert flat(val) == NAMES


def test_images_and_labels_that_do_not_belong_together(val, synsets, tmp_path):
    assert complaint(tmp_path / "nowhere", synsets) == f"{tmp_path}/nowhere is not there"
    assert complaint(val, tmp_path / "none.txt") == f"{tmp_path}/none.txt cannot be read: No such file or directory"
    (val / "ILSVRC2012_val_00000009.JPEG").touch()
    assert complaint(val, synsets) == f"1 images have no label, {val}/ILSVRC2012_val_00000009.JPEG is one"
    (val / "ILSVRC2012_val_00000009.JPEG").unlink()
    (val / f"{NAMES[1]}.JPEG").unlink()
    assert complaint(val, synsets).startswith(f"1 of 4 images are not in {val}, {NAMES[1]}.JPEG is one; unpack ")
    assert sorted(flat(val)) == [NAMES[0], *NAMES[2:]]


def test_nothing_is_overwritten(val, synsets):
    (val / SYNSETS[0]).mkdir()
    (val / SYNSETS[0] / f"{NAMES[0]}.JPEG").write_text("another")
    assert "is there already" in complaint(val, synsets)
    assert (val / SYNSETS[0] / f"{NAMES[0]}.JPEG").read_text() == "another"
