"""Intervals, files and write errors of checkpoints."""

import os
import shutil
import threading
import time

import pytest
import torch

from dat_train.errors import UserError
from dat_train.models.weights.checkpoint import Checkpoint
from dat_train.runtime.checkpoint_file import write_checkpoint
from dat_train.training import checkpoint_writer as writer
from dat_train.training.checkpoint_writer import CheckpointWriter
from dat_train.training.run_folder import RunFolder


def state(step: int) -> dict:
    return {"step": step, "model": {"weight": torch.full((4,), float(step))}}


@pytest.fixture
def folder(tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.create()
    return folder


def a_writer(folder, warnings=None, **settings) -> CheckpointWriter:
    usual = {"every_minutes": 10, "keep": 0, "step_on_disk": None, "before": lambda: None}
    return CheckpointWriter(folder, **(usual | settings), warn=(warnings if warnings is not None else []).append)


@pytest.fixture
def written(monkeypatch):
    """(file, step, thread) of every write."""
    log = []

    def write(snapshot, path):
        log.append((path.name, snapshot["step"], threading.current_thread()))
        write_checkpoint(snapshot, path)

    monkeypatch.setattr(writer, "write_checkpoint", write)
    return log


def test_another_thread_writes_a_copy_while_training_goes_on(folder, monkeypatch):
    begin = threading.Event()

    def write(snapshot, path):
        assert begin.wait(10)
        write_checkpoint(snapshot, path)

    monkeypatch.setattr(writer, "write_checkpoint", write)
    checkpoints, now = a_writer(folder), state(1)
    checkpoints.save(now)
    now["model"]["weight"].fill_(7.0)  # the next step
    assert not folder.last.exists()
    begin.set()
    checkpoints.finish(now)
    assert Checkpoint.open(folder.last).content["model"]["weight"].tolist() == [1.0] * 4


def test_best_is_written_before_the_last_that_refers_to_it(folder, written):
    checkpoints = a_writer(folder)
    checkpoints.save(state(1), best=True)
    checkpoints.save(state(2))
    checkpoints.finish(state(2))
    assert [entry[:2] for entry in written] == [("best.pt", 1), ("last.pt", 1), ("last.pt", 2)]
    assert all(thread is not threading.main_thread() for *_, thread in written)
    assert Checkpoint.open(folder.best).content["step"] == 1


def test_keep_bounds_the_history(folder):
    checkpoints = a_writer(folder, keep=2)
    for step in range(1, 7):
        checkpoints.save(state(step))
    checkpoints.finish(state(6))
    assert [path.name for path in folder.history()] == ["last-000000005.pt", "last-000000004.pt"]
    assert [Checkpoint.open(path).content["step"] for path in (folder.last, *folder.history())] == [6, 5, 4]


def test_a_rewound_run_removes_later_checkpoints(folder):
    checkpoints = a_writer(folder, keep=5)
    for step in range(1, 5):
        checkpoints.save(state(step))
    checkpoints.finish(state(4))
    rewound = a_writer(folder, keep=5, step_on_disk=4)
    rewound.save(state(3))
    rewound.finish(state(3))
    assert [Checkpoint.open(path).content["step"] for path in (folder.last, *folder.history())] == [3, 2, 1]


def test_without_hard_links_older_ones_are_copies(folder, monkeypatch):
    def link(*_):
        raise OSError("not here")

    monkeypatch.setattr(os, "link", link)
    checkpoints = a_writer(folder, keep=1)
    for step in (1, 2):
        checkpoints.save(state(step))
    checkpoints.finish(state(2))
    assert Checkpoint.open(folder.history()[0]).content["step"] == 1


def test_the_next_checkpoint_is_due_after_the_interval(folder, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    checkpoints = a_writer(folder, every_minutes=10)
    for minutes, due in ((9.9, False), (0.2, True), (5, True)):
        now[0] += minutes * 60
        assert checkpoints.due() == due
    checkpoints.save(state(1))
    assert not checkpoints.due()
    now[0] += 600
    assert checkpoints.due()
    assert a_writer(folder, every_minutes=0).due()


def test_a_failed_write_is_repeated_soon(folder, monkeypatch):
    now, warnings = [1000.0], []
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    checkpoints = a_writer(folder, warnings)
    checkpoints.save(state(1))
    checkpoints.wait()
    old = folder.last.read_bytes()

    shutil.move(folder.checkpoints, folder.path / "away")  # a mount that vanished
    checkpoints.save(state(2), best=True)
    checkpoints.wait()
    assert len(warnings) == 1
    assert "No such file or directory" in warnings[0] and "the run continues and tries again" in warnings[0]
    assert not checkpoints.due()
    now[0] += writer.RETRY_SECONDS
    assert checkpoints.due()  # long before the ten minutes are over

    shutil.move(folder.path / "away", folder.checkpoints)
    assert folder.last.read_bytes() == old
    checkpoints.save(state(3))
    checkpoints.finish(state(3))
    assert Checkpoint.open(folder.last).content["step"] == 3
    assert Checkpoint.open(folder.best).content["step"] == 2  # the best it was
    assert len(warnings) == 1


def test_no_checkpoint_is_written_before_its_metrics_are_on_the_disk(folder):
    full, warnings = [True], []

    def before():
        if full:
            raise OSError(28, "No space left on device")

    checkpoints = a_writer(folder, warnings, before=before)
    checkpoints.save(state(1))
    checkpoints.wait()
    assert not folder.last.exists() and "No space left on device" in warnings[0]
    full.clear()
    checkpoints.save(state(2))
    checkpoints.finish(state(2))
    assert Checkpoint.open(folder.last).content["step"] == 2


def test_at_the_end_writes_are_repeated_and_then_raise_an_error(folder, monkeypatch):
    pauses, warnings = [], []
    monkeypatch.setattr(time, "sleep", pauses.append)
    checkpoints = a_writer(folder, warnings)
    shutil.rmtree(folder.checkpoints)
    checkpoints.save(state(9))
    with pytest.raises(UserError, match=r"step 9 could not be written to .*No such file.*start the command again"):
        checkpoints.finish(state(9))
    assert pauses == [writer.LAST_PAUSE_SECONDS] * writer.LAST_ATTEMPTS and len(warnings) == 1 + writer.LAST_ATTEMPTS


def test_at_the_end_a_disk_that_is_repaired_in_time_is_enough(folder, monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda seconds: folder.create())
    checkpoints = a_writer(folder)
    shutil.rmtree(folder.checkpoints)
    checkpoints.save(state(9), best=True)
    checkpoints.finish(state(9))
    assert Checkpoint.open(folder.last).content["step"] == Checkpoint.open(folder.best).content["step"] == 9
