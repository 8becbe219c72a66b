"""Lock and content of a run folder."""

import json
import multiprocessing
import os
import signal

import pytest

from dat_train.errors import UserError
from dat_train.runtime.checkpoint_file import save_checkpoint
from dat_train.training import run_folder
from dat_train.training.run_folder import RunFolder, read_rows


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(run_folder, "LOCK_SECONDS", 0.5)
    folder = RunFolder(tmp_path / "run")
    folder.create()
    yield folder
    folder.unlock()


def hold(folder, pipe, fork):
    """In a separate process: lock the folder, report it, and wait."""
    folder.lock()
    child = os.fork() if fork else None  # a data worker
    if child == 0:
        signal.pause()
    pipe.send(child)
    signal.pause()


def holder(folder, fork=False):
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe()
    process = context.Process(target=hold, args=(folder, there, fork), daemon=True)
    process.start()
    return process, here.recv()


def test_a_second_process_is_refused_and_the_error_names_the_first(folder):
    process, _ = holder(folder)
    with pytest.raises(UserError, match=rf"another process trains in .* \(process {process.pid} on .*choose another"):
        folder.lock()
    process.kill()
    process.join()


def test_the_lock_ends_with_a_killed_process_whose_workers_live(folder):
    process, worker = holder(folder, fork=True)
    process.kill()
    process.join()
    folder.lock()
    os.kill(worker, 0)  # it is there
    os.kill(worker, signal.SIGKILL)


def test_a_worker_that_ends_leaves_the_lock(folder):
    folder.lock()
    if (child := os.fork()) == 0:
        folder.unlock()
        os._exit(0)
    os.waitpid(child, 0)
    context = multiprocessing.get_context("fork")
    other = context.Process(target=RunFolder(folder.path).lock)  # fails with a message on stderr
    other.start()
    other.join()
    assert other.exitcode == 1


def test_unlocked_is_free(folder):
    folder.lock()
    folder.unlock()
    process, _ = holder(folder)
    process.kill()
    process.join()


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(UserError, match=r"runs/a cannot be created \(Not a directory\); set runs_dir or name"):
        RunFolder(tmp_path / "runs" / "a").create()


@pytest.mark.parametrize("name", ["checkpoints/last.pt", "checkpoints/best.pt", "metrics.jsonl", "summary.json"])
def test_a_folder_in_the_place_of_a_file_is_found_at_the_start(name, tmp_path):
    (tmp_path / "run" / name).mkdir(parents=True)
    with pytest.raises(UserError, match=rf"run/{name} is a folder, and the run writes a file there; rename it, or"):
        RunFolder(tmp_path / "run").create()


def test_earlier_runs_are_moved_aside_under_numbers(tmp_path):
    folder = RunFolder(tmp_path / "run")
    assert folder.move_aside() is None
    for number in (1, 2):
        folder.create()
        folder.config.write_text(str(number))
        assert folder.move_aside() == tmp_path / f"run.old-{number}"
    assert [(tmp_path / f"run.old-{number}" / "config.yaml").read_text() for number in (1, 2)] == ["1", "2"]


def checkpoint(path, step, **more):
    save_checkpoint({"step": step} | more, path)
    return path


def test_the_newest_checkpoint_is_the_last_or_the_most_advanced(folder):
    lines = []
    assert folder.newest_checkpoint(lines.append) is None
    older = checkpoint(folder.checkpoints / "last-000000004.pt", 4)
    checkpoint(folder.best, 3)
    checkpoint(folder.last, 6)
    assert folder.newest_checkpoint(lines.append) == folder.last and not lines

    folder.last.write_bytes(folder.last.read_bytes()[:-1])
    assert folder.newest_checkpoint(lines.append) == older
    assert "last.pt was altered or truncated" in lines[0] and "last-000000004.pt, step 4" in lines[1]

    folder.last.unlink()
    older.write_bytes(b"")
    assert folder.newest_checkpoint(lines.append) == folder.best

    folder.best.write_bytes(b"")
    with pytest.raises(UserError, match=r"all checkpoints in .* are damaged; resume=never starts a new run"):
        folder.newest_checkpoint(lines.append)


def test_a_checkpoint_that_is_not_good_is_passed_over(folder):
    checkpoint(folder.last, 6, sound=False)
    lines = []
    assert folder.newest_checkpoint(lines.append, lambda saved: saved["sound"]) is None
    checkpoint(folder.best, 2, sound=True)
    assert folder.newest_checkpoint(lines.append, lambda saved: saved["sound"]) == folder.best


ROWS = [{"step": 1, "lr": 1}, {"step": 2, "lr": 1}, {"step": 2, "val_map": 1.0}, {"step": 3, "lr": 1}]


@pytest.mark.parametrize(
    ("step", "validated", "left"), [(3, False, 4), (2, True, 3), (2, False, 2), (1, True, 1), (0, True, 0)]
)
def test_metrics_are_cut_to_the_step_of_a_checkpoint(folder, step, validated, left):
    folder.metrics.write_text("".join(json.dumps(row) + "\n" for row in ROWS) + '{"step": 4, "lo')
    folder.truncate_metrics(step, validated)
    assert read_rows(folder.metrics) == ROWS[:left]
    assert folder.metrics.read_bytes().count(b"\n") == left and b"lo" not in folder.metrics.read_bytes()[-3:]


def test_missing_metrics_and_incomplete_lines_are_accepted(folder):
    folder.truncate_metrics(3, True)
    assert read_rows(folder.metrics) == []
    folder.metrics.write_text('{"step": 1}\nrubbish\n{"step": 2}\n')
    assert read_rows(folder.metrics) == [{"step": 1}, {"step": 2}]
