"""Rows, lines and numbers of a run."""

import json
import math
import time

import pytest
import torch
from training.small_run import ALONE

from dat_train.runtime.processes import Processes
from dat_train.runtime.stop_request import StopRequest
from dat_train.runtime.terminal import Terminal
from dat_train.training.plan import RunPlan
from dat_train.training.run_context import RunContext
from dat_train.training.run_folder import RunFolder, read_rows
from dat_train.training.run_log import RunLog
from dat_train.training.schedule import Schedule
from dat_train.training.task import Evaluation, Score

PLAN = RunPlan(
    train_size=640,
    epochs=2,
    max_steps=None,
    batch_size=64,
    micro_batch_size=64,
    world_size=1,
    schedule=Schedule(base_lr=1e-3),
)


class Recorder:
    """A logger that keeps its rows."""

    def __init__(self) -> None:
        self.calls = []

    def log(self, group, row):
        self.calls.append((group, row))

    def sync(self):
        self.calls.append("sync")

    def close(self):
        self.calls.append("close")


@pytest.fixture
def now(monkeypatch):
    """The current time in a list, which tests set."""
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def a_log(path, processes=ALONE, loggers=(), step=0) -> RunLog:
    folder = RunFolder(path)
    folder.create()
    log = RunLog(RunContext(folder, processes, Terminal(folder.log, screen=False), StopRequest()), PLAN, loggers)
    log.start(step)
    return log


def numbers(loss=1.5, norm=2.0, skipped=0, failed=0) -> torch.Tensor:
    return torch.tensor([loss, norm, skipped, failed], dtype=torch.float64)


SCORE = Score("top1", "top-1 {:.2f} %")


def evaluation(loss=1.0, top1=50.0, top5=90.0) -> Evaluation:
    return Evaluation({"loss": loss, "top1": top1, "top5": top5}, f"top-1 {top1:.2f} %   loss {loss:.4f}")


def validate(log, step, averaged=None, is_best=False, **numbers) -> None:
    log.validation(step, evaluation(**numbers), averaged=averaged, score=SCORE, is_best=is_best)


def zero() -> dict:
    return {"skipped": 0, "consecutive_failures": 0}


def test_rows_have_the_numbers_of_every_step(tmp_path):
    log, counters = a_log(tmp_path), zero()
    log.step(1, 1e-3, 0, numbers())
    log.step(2, 5e-4, 3, numbers(math.nan, math.inf, 1, 1))
    assert read_rows(log.folder.metrics) == []  # still on the device
    log.flush(counters)
    assert read_rows(log.folder.metrics) == [
        {"step": 1, "epoch": 0.1, "loss": 1.5, "lr": 1e-3, "grad_norm": 2.0, "skipped": 0, "unreadable": 0},
        {"step": 2, "epoch": 0.2, "loss": None, "lr": 5e-4, "grad_norm": None, "skipped": 1, "unreadable": 3},
    ]
    assert "NaN" not in log.folder.metrics.read_text()
    log.flush(counters)  # nothing waits: nothing happens
    assert len(read_rows(log.folder.metrics)) == 2 and len(read_rows(log.folder.timing)) == 2


def test_all_waiting_steps_are_one_transfer(tmp_path, monkeypatch):
    log, transfers, tolist = a_log(tmp_path), [], torch.Tensor.tolist
    monkeypatch.setattr(torch.Tensor, "tolist", lambda tensor: transfers.append(tensor.shape) or tolist(tensor))
    for step in range(1, 6):
        log.step(step, 1e-3, 0, numbers(), {"loss_part": torch.tensor(step / 3)} if step == 2 else {})
    log.flush(zero())
    assert transfers == [(21,)]
    assert [row.get("loss_part") for row in read_rows(log.folder.metrics)] == [None, 0.666667, None, None, None]


def test_consecutive_failures_are_counted_over_flushes_and_reset_by_a_good_step(tmp_path):
    log, counters = a_log(tmp_path), zero()
    story = [(1, 1), (1, 1), (1, 0), (1, 1), (0, 0), (1, 1)]  # the third: a loss scale that was too large
    seen = []
    for step, (skipped, failed) in enumerate(story, start=1):
        log.step(step, 1e-3, 0, numbers(skipped=skipped, failed=failed))
        log.flush(counters)
        seen.append((counters["skipped"], counters["consecutive_failures"]))
    assert seen == [(1, 1), (2, 2), (3, 2), (4, 3), (4, 0), (5, 1)]


def test_throughput_and_time_left_leave_validation_and_other_pauses_out(tmp_path, now):
    log = a_log(tmp_path)
    for step in (1, 2, 3, 4):
        log.step(step, 1e-3, 0, numbers())
    now[0] += 2.0
    log.flush(zero())
    now[0] += 30.0
    validate(log, 4, is_best=True)
    log.step(5, 1e-3, 0, numbers())
    now[0] += 1.0
    log.flush(zero())
    started, first, validation, second = read_rows(log.folder.timing)
    assert started["step"] == 0 and started["processes"] == 1 and started["torch"] == torch.__version__
    assert (first["seconds"], first["images_per_second"], first["steps"]) == (2.0, 128.0, 4)
    assert (validation["validation_seconds"], validation["elapsed"]) == (30.0, 32.0)
    assert (second["seconds"], second["images_per_second"]) == (1.0, 64.0)
    lines = [line[21:] for line in log.folder.log.read_text().splitlines()]
    assert lines == [
        "step 4/20   epoch 0.40   loss 1.5000   lr 1.00e-03   128 images/s   ETA 8 s",
        "epoch 0.4   validation: top-1 50.00 %   loss 1.0000   * best",
        "step 5/20   epoch 0.50   loss 1.5000   lr 1.00e-03   64 images/s   ETA 1 min 39 s",
    ]


def test_lines_have_skipped_steps_and_the_score_of_the_average(tmp_path):
    log = a_log(tmp_path)
    log.step(1, 1e-3, 0, numbers(math.nan, math.nan, 1, 1))
    log.flush(zero())
    validate(log, 1, averaged=evaluation(top1=51.0), loss=2.0)
    text = log.folder.log.read_text()
    assert "loss not finite" in text and "1 skipped" in text
    assert "loss 2.0000   EMA top-1 51.00 %" in text and "best" not in text


def test_a_validation_has_a_row_with_its_numbers_and_null_for_what_is_not_finite(tmp_path):
    log = a_log(tmp_path)
    validate(log, 1, averaged=evaluation(loss=0.5), loss=math.nan)
    assert read_rows(log.folder.metrics) == [
        {"step": 1, "epoch": 0.1, "val_loss": None, "val_top1": 50.0, "val_top5": 90.0}
        | {"ema_val_loss": 0.5, "ema_val_top1": 50.0, "ema_val_top5": 90.0}
    ]


def test_loggers_get_the_rows_of_the_file_in_order(tmp_path):
    recorder = Recorder()
    log = a_log(tmp_path, loggers=[recorder])
    log.step(1, 1e-3, 0, numbers())
    log.step(2, 1e-3, 0, numbers())
    log.flush(zero())
    validate(log, 2)
    log.sync()
    log.close()
    kinds = ["train", "train", "validation"]
    assert recorder.calls == [*zip(kinds, read_rows(log.folder.metrics), strict=True), "sync", "close"]


def test_other_processes_count_and_write_nothing(tmp_path):
    recorder, counters = Recorder(), zero()
    log = a_log(tmp_path, Processes(1, 2, 1, torch.device("cpu")), [recorder])
    log.step(1, 1e-3, 0, numbers(skipped=1, failed=1))
    log.flush(counters)
    log.sync()
    log.close()
    assert counters == {"skipped": 1, "consecutive_failures": 1}
    assert not log.folder.metrics.exists() and not log.folder.timing.exists() and not recorder.calls


def test_a_resumed_run_writes_after_the_last_whole_row(tmp_path):
    log = a_log(tmp_path)
    log.step(1, 1e-3, 0, numbers())
    log.flush(zero())
    with log.folder.metrics.open("ab") as file:
        file.write(b'{"step": 2, "lo')  # killed
    log = a_log(tmp_path, step=1)
    log.step(2, 1e-3, 0, numbers(loss=0.5))
    log.flush(zero())
    assert [json.loads(line)["step"] for line in log.folder.metrics.read_text().splitlines()] == [1, 2]


def test_rows_that_a_full_disk_refused_are_written_later(tmp_path):
    log = a_log(tmp_path)
    log.step(1, 1e-3, 0, numbers())
    log.flush(zero())
    away = tmp_path / "away"
    log.folder.metrics.rename(away)
    log.folder.metrics.mkdir()  # cannot be opened for writing
    for step in (2, 3):
        log.step(step, 1e-3, 0, numbers())
        log.flush(zero())  # the run continues
    with pytest.raises(OSError, match="directory"):
        log.sync()  # a checkpoint must not say that they are there
    log.folder.metrics.rmdir()
    away.rename(log.folder.metrics)
    log.sync()
    assert [row["step"] for row in read_rows(log.folder.metrics)] == [1, 2, 3]


def test_on_a_terminal_the_numbers_are_in_the_progress_bar(tmp_path, monkeypatch):
    log, shown = a_log(tmp_path), []
    monkeypatch.setattr(log.terminal, "live", True)
    monkeypatch.setattr(log.terminal, "progress", lambda step, steps, text=None: shown.append((step, steps, text)))
    log.step(1, 1e-3, 0, numbers())
    log.flush(zero())
    assert shown[0] == (1, 20, None) and shown[1][2].startswith("loss 1.5000   lr 1.00e-03")
    assert not log.folder.log.exists()
