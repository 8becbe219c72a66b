"""Texts before and after a run, and summary.json."""

import json

import pytest
import torch
from PIL import Image
from training.small_run import small_training

from dat_train.runtime.display_text import table
from dat_train.tasks.classification import ImageClassification
from dat_train.training.memory_estimate import memory_text
from dat_train.training.run_folder import RunFolder, read_rows
from dat_train.training.state import TrainState
from dat_train.training.summary import result_text, summarize

SCORE = ImageClassification.score


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def a_state() -> TrainState:
    layer = torch.nn.Linear(1, 1)
    state = TrainState(layer, torch.optim.SGD(layer.parameters()), torch.amp.GradScaler("cpu", enabled=False))
    state.step, state.best = 6, {"top1": 71.5, "epoch": 2, "step": 4}
    state.counters |= {"skipped": 1, "unreadable": 2}
    return state


VALIDATION = {"step": 6, "epoch": 3.0, "val_loss": 1.0, "val_top1": 70.0, "val_top5": 95.0}
EMA = {"ema_val_loss": 0.9, "ema_val_top1": 71.0, "ema_val_top5": 96.0}


@pytest.fixture
def folder(tmp_path):
    """A run of 6 steps, killed after the fifth and repeated from the fourth."""
    folder = RunFolder(tmp_path / "run")
    folder.create()
    steps = [{"step": step, "epoch": step / 2, "loss": 1.0, "lr": 1e-3} for step in range(1, 7)]
    write(folder.metrics, [*steps, VALIDATION | EMA])
    timing = [
        {"elapsed": 0.0, "started": "now", "step": 0},
        {"elapsed": 4.0, "step": 4, "steps": 4, "seconds": 3.5},
        {"elapsed": 5.0, "step": 4, "validation_seconds": 1.0},
        {"elapsed": 6.0, "step": 5, "steps": 1, "seconds": 1.0},
        {"elapsed": 0.0, "started": "later", "step": 4},
        {"elapsed": 2.5, "step": 6, "steps": 2, "seconds": 1.5},
    ]
    write(folder.timing, timing)
    return folder


def test_the_summary_adds_up_all_processes_of_the_run(folder):
    summary = summarize(folder, a_state(), SCORE, 64, {"parameters": 2})
    assert summary == json.loads(folder.summary.read_text())
    assert summary == {
        "score": "top1",
        "best_top1": 71.5,
        "best_epoch": 2,
        "best_step": 4,
        "final_top1": 71.0,  # of the average
        "final_top5": 96.0,
        "final_loss": 0.9,
        "steps": 6,
        "images_per_second": round(7 * 64 / 6, 2),  # a step was done twice
        "seconds": 8.5,
        "skipped": 1,
        "unreadable": 2,
        "parameters": 2,
    }
    with Image.open(folder.curves) as picture:
        assert min(picture.size) > 300


def test_without_an_average_the_accuracy_of_the_weights_is_reported(folder):
    write(folder.metrics, [VALIDATION | {"val_loss": None}])  # it was not finite
    write(folder.timing, [])
    summary = summarize(folder, a_state(), SCORE, 64, {})
    assert (summary["final_top1"], summary["final_top5"], summary["final_loss"]) == (70.0, 95.0, None)
    assert summary["images_per_second"] is None and summary["seconds"] == 0
    assert "images/s" not in result_text(summary, SCORE, folder)


def test_the_last_lines_have_the_best_score_and_the_evaluation_command(folder):
    assert result_text(summarize(folder, a_state(), SCORE, 64, {}), SCORE, folder).splitlines() == [
        "best top-1 71.50 % (epoch 2), last top-1 71.00 %, in 8 s at 75 images/s",
        f"all files are in {folder.path}; to evaluate the best model:",
        f"  dat-eval ckpt={folder.best}",
    ]


def test_the_plan_is_a_table_and_memory_is_in_words():
    assert table([("run", "runs/a"), ("memory", "little")]) == "  run     runs/a\n  memory  little"
    assert memory_text({"weights": 1_500_000_000, "activations": 600_000_000}) == (
        "about 2.1 GB per process: weights 1.5 GB, activations 600 MB"
    )


def test_a_real_runs_summary_agrees_with_its_rows(tmp_path):
    training = small_training(tmp_path, epochs=2)
    training.run()
    training.log.folder.unlock()
    summary = summarize(training.log.folder, training.state, SCORE, 16, {})
    tops = [row["ema_val_top1"] for row in read_rows(training.log.folder.metrics) if "val_top1" in row]
    assert summary["best_top1"] == max(tops) and summary["final_top1"] == tops[-1] and summary["steps"] == 6
