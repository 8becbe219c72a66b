"""Several real processes of one run: failures, hanging processes, different settings, stop requests."""

import os
import signal
import time

import pytest
import torch
from training.real_run import RealRun, content, ended, ranks
from troubleshooting import entry

from dat_train.data.generated.fake import FakeImages
from dat_train.data.mixing import Mixing
from dat_train.errors import UserError
from dat_train.models.weights.checkpoint import Checkpoint
from dat_train.runtime.processes import start_processes
from dat_train.runtime.stop_request import PREEMPTED
from dat_train.training.run_folder import read_rows

pytestmark = pytest.mark.long

ALONE = "data.workers=0"  # training processes have no worker processes here, which makes them quicker


@pytest.fixture(scope="module")
def through(tmp_path_factory):
    """Content of an uninterrupted run."""
    run = RealRun(tmp_path_factory.mktemp("through"), ALONE)
    assert run.wait() == 0, run.output
    return content(run.run)


def error_lines(runs: list[RealRun]) -> list[str]:
    """The lines that begin with "error", of all processes."""
    return [line for run in runs for line in run.output.splitlines() if line.startswith("error")]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_leads_to_a_checkpoint_and_an_exit_code_to_requeue_on(number, through, tmp_path):
    run = RealRun(tmp_path, ALONE, "checkpoint.every_minutes=10")
    with ended(run):
        run.wait_for_step(15)  # between two ends of epochs
        begin = time.monotonic()
        run.send(number)
        assert run.wait(30) == PREEMPTED == 75
    assert time.monotonic() - begin < 30
    assert f"stopped by {number.name} after step" in run.output
    assert Checkpoint.open(run.run / "checkpoints/last.pt").content["step"] >= 15
    if number == signal.SIGTERM:
        again = RealRun(tmp_path, ALONE, "checkpoint.every_minutes=10")
        assert again.wait() == 0
        assert [content(run.run)[name] == through[name] for name in ("metrics.jsonl",)] == [True]


def test_a_signal_to_one_rank_stops_all_after_the_same_step(tmp_path):
    runs = ranks(tmp_path, 2, ALONE)
    with ended(*runs):
        runs[0].wait_for_step(10)
        runs[1].send(signal.SIGUSR1)
        assert [run.wait(30) for run in runs] == [PREEMPTED, PREEMPTED]
    assert "stopped by another process after step" in runs[0].output


def test_a_signal_before_training_ends_the_process_at_once(tmp_path):
    run = RealRun(tmp_path, ALONE, sabotage=slow_to_read)
    with ended(run):
        run.wait_for(lambda: "reading" in run.output)
        run.send(signal.SIGTERM)
        assert run.wait(10) == PREEMPTED


def slow_to_read() -> None:
    def read(*_, **__):
        print("reading", flush=True)
        for _ in range(1000):
            time.sleep(0.1)

    FakeImages.__init__ = read


def test_a_hanging_rank_and_the_collective_are_named_and_a_second_signal_ends_the_wait(tmp_path):
    runs = ranks(tmp_path, 2, ALONE, "timeout_minutes=0.1")
    with ended(*runs):
        runs[0].wait_for_step(6)
        runs[1].send(signal.SIGSTOP)
        assert runs[0].wait(60) == 2
    (line,) = error_lines(runs)
    assert line.startswith("error: rank 1 does not answer (it hangs or is cut off): the all_")
    assert "timeout_minutes=... waits longer" in line
    assert Checkpoint.open(runs[0].run / "checkpoints/last.pt").content["step"] >= 5

    runs = ranks(tmp_path, 2, ALONE)  # a signal is obeyed after the step, which does not end
    with ended(*runs):
        runs[0].wait_for_step(10)
        runs[1].send(signal.SIGSTOP)
        runs[0].send(signal.SIGTERM)
        time.sleep(1.2)
        assert runs[0].process.is_alive()
        runs[0].send(signal.SIGTERM)
        assert runs[0].wait(5) == PREEMPTED


def broken_mixing() -> None:
    def broken(self, images, labels, *key, step):
        raise ValueError(f"unexpected value\nstep {key[2]}")

    Mixing.__call__ = broken


def test_a_crash_of_one_rank_is_one_line_with_rank_and_reason(tmp_path):
    runs = ranks(tmp_path, 2, ALONE, sabotage={1: broken_mixing})
    with ended(*runs):
        assert [run.wait(60) for run in runs] == [2, 1]
    (lost,), (crash,) = error_lines(runs[:1]), error_lines(runs[1:])
    assert crash.startswith(
        f"error on rank 1 ({os.uname().nodename}): ValueError: unexpected value step 0; the traceback"
    )
    assert lost.startswith("error: rank 1 has ended: the ")
    log = (runs[0].run / "log-rank1.txt").read_text()
    assert (
        crash.endswith("runs/run/log-rank1.txt") and "Traceback" in log and 'raise ValueError(f"unexpected value' in log
    )


def test_ranks_that_disagree_stop_with_the_difference(tmp_path):
    first, second = ranks(tmp_path, 2, extra={1: ["optim.lr=0.1"]})
    with ended(first, second):
        assert (first.wait(), second.wait()) == (2, 2)
    (line,) = error_lines([first, second])
    assert line == (
        "error: the processes disagree on the configuration: 'lr: 0.002' on rank 0, 'lr: 0.1' on rank 1; start every "
        "process with the same command"
    )


def not_a_number() -> None:
    mix = Mixing.__call__

    def mixed(self, images, labels, *key, step):
        images, targets = mix(self, images, labels, *key, step=step)
        return (images * torch.nan if key[2] in (3, 4) or key[2] >= 20 else images), targets

    Mixing.__call__ = mixed


def test_a_gradient_of_one_rank_that_is_not_finite_is_skipped_by_all_and_too_many_end_the_run(tmp_path):
    runs = ranks(tmp_path, 2, ALONE, "nonfinite_limit=5", sabotage={1: not_a_number})
    with ended(*runs):
        assert [run.wait() for run in runs] == [2, 2]
    rows = [row for row in read_rows(runs[0].run / "metrics.jsonl") if "lr" in row]
    assert [row["step"] for row in rows] == list(range(1, 26))
    assert [row["skipped"] for row in rows] == [0, 0, 0, 1] + [2] * 16 + [3, 4, 5, 6, 7]
    assert [row["step"] for row in rows if row["loss"] is None] == [4, 5, 21, 22, 23, 24, 25]
    assert runs[0].output.count("going back to") == 1
    (line,) = error_lines(runs)
    assert "the last 5 steps up to step 25 had a loss or gradient that is not finite, again" in line


def test_two_runs_in_one_folder_are_refused(tmp_path):
    first = RealRun(tmp_path, ALONE)
    with ended(first):
        first.wait_for_step(1)
        second = RealRun(tmp_path, ALONE)
        assert second.wait() == 2
        assert f"another process trains in runs/run (process {first.process.pid} on" in second.output
        assert entry("locked").search(second.output)


def test_sets_smaller_than_the_world_are_validated_whole(tmp_path):
    settings = (
        ALONE,
        "data.fake_images=8",
        "data.val_fraction=0.12",
        "max_steps=2",
        "epochs=2",
    )  # one image to validate
    one = RealRun(tmp_path / "one", *settings)
    two = ranks(tmp_path / "two", 2, *settings)
    with ended(one, *two):
        assert [run.wait() for run in (one, *two)] == [0, 0, 0]
    found = [[row for row in read_rows(run.run / "metrics.jsonl") if "val_loss" in row] for run in (one, two[0])]
    assert len(found[0]) == 2
    for alone, together in zip(*found, strict=True):
        assert together == pytest.approx(alone, rel=1e-5)


def test_a_device_that_only_some_ranks_lack_is_printed_by_them(monkeypatch, capsys):
    for name, value in (("RANK", "1"), ("WORLD_SIZE", "2"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match="needs GPU 1"):
        start_processes("cuda")
    assert "error on rank 1 (" in capsys.readouterr().err


def test_deterministic_algorithms_end_with_the_run_of_a_sweep():
    start_processes("cpu", deterministic=True)
    start_processes("cpu")
    assert not torch.are_deterministic_algorithms_enabled()
