"""Storage that does not answer, and files that are not regular, do not make a command wait forever."""

import os
import shutil
import threading
import time

import pytest
from commands.fitted_checkpoint import MODEL
from commands.running import run_here
from commands.small_checkpoint import write_small_checkpoint
from troubleshooting import entry

from dat_train.data.dataset import ImageDataset
from dat_train.data.generated.digits import write_digits

SMALL = (
    "experiment=digits",
    "name=run",
    "batch_size=8",
    "micro_batch_size=8",
    "max_steps=1",
    "epochs=1",
    "schedule.warmup_epochs=0",
)
NANO = "model.args={dims:[8,16,16,24],depths:[1,1,1,1],num_heads:[1,2,2,3],groups:[1,1,1,1]}"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Folder with digits and a checkpoint of a model with random weights."""
    folder = tmp_path_factory.mktemp("stalled")
    write_digits(folder / "digits", val_fraction=0.2, split_seed=0)
    write_small_checkpoint(folder / "best.pt", f"data.root={folder / 'digits'}", model=MODEL)
    return folder


@pytest.fixture
def stalled(monkeypatch):
    """Reads of images that return only after the test."""
    released = threading.Event()
    monkeypatch.setattr(ImageDataset, "__getitem__", lambda *_: released.wait(60))
    yield
    released.set()


@pytest.mark.parametrize("command", [("dat-eval",), ("dat-predict", "digits/val/4")])
def test_evaluation_and_prediction_end_after_timeout_minutes(command, run, stalled):
    name, *images = command
    start = time.monotonic()
    ended = run_here(name, *images, "ckpt=best.pt", "data.workers=0", "timeout_minutes=0.01", cwd=run)
    assert time.monotonic() - start < 30
    assert ended.returncode == 2 and entry("no-batch").fullmatch(ended.stderr.strip()), ended.stderr
    assert len(ended.stderr.splitlines()) == 1 and "timeout_minutes=... waits longer" in ended.stderr


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no FIFO on this system")
def test_a_fifo_in_a_folder_is_not_opened(run, tmp_path):
    for split in ("train", "val"):
        for label in "01":
            shutil.copytree(run / "digits" / split / label, tmp_path / "photos" / split / label)
            os.mkfifo(tmp_path / "photos" / split / label / "0pipe.png")
    predicted = run_here(
        "dat-predict", str(tmp_path / "photos/val/1"), f"ckpt={run / 'best.pt'}", "format=jsonl", cwd=tmp_path
    )
    assert predicted.returncode == 0, predicted.stderr
    images = list((run / "digits/val/1").iterdir())
    assert len(predicted.stdout.splitlines()) == len(images) and "pipe" not in predicted.stdout
    root = f"data.root={tmp_path / 'photos'}"
    trained = run_here("dat-train", *SMALL, NANO, "data=folder", root, "data.workers=0", cwd=tmp_path)
    assert trained.returncode == 0, trained.stderr
    assert "that are not regular files" in trained.stdout


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no FIFO on this system")
def test_a_fifo_that_is_named_is_an_unreadable_image(run, tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    ended = run_here("dat-predict", "pipe.png", f"ckpt={run / 'best.pt'}", cwd=tmp_path)
    assert ended.returncode == 1 and "pipe.png" in ended.stderr and "1 of 1 images could not be read" in ended.stderr
