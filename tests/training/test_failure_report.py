"""Reports of a process that fails, alone and as one of several."""

import os

import pytest
import torch
import torch.distributed as dist
from training.small_run import ALONE

from dat_train.errors import UserError
from dat_train.runtime import processes as runtime_processes
from dat_train.runtime.processes import Processes, ProcessLost
from dat_train.runtime.terminal import Terminal
from dat_train.training import failure_report


@pytest.fixture(autouse=True)
def short_timeouts(monkeypatch):
    monkeypatch.setattr(runtime_processes, "NOTICE_SECONDS", 0.3)
    monkeypatch.setattr(failure_report, "STORE_SECONDS", 0.0)


@pytest.fixture
def ranks():
    """Three processes' views of one run; they share a store."""
    store = dist.HashStore()
    return [Processes(rank, 3, rank, torch.device("cpu"), store=store) for rank in range(3)]


def fail(processes, folder, error: Exception) -> None:
    with failure_report.report_failure(processes, Terminal(folder / "log.txt", screen=False), folder):
        raise error


def test_a_single_process_raises_the_error_and_logs_it(tmp_path):
    with pytest.raises(UserError, match="too large"):
        fail(ALONE, tmp_path, UserError("too large"))
    assert "error: too large" in (tmp_path / "log.txt").read_text()


def test_a_file_of_the_run_that_cannot_be_written_is_an_error_the_user_can_fix(tmp_path):
    full = OSError(28, "No space left on device", str(tmp_path / "summary.json"))
    with pytest.raises(UserError, match=r"summary.json: No space left on device; free disk space"):
        fail(ALONE, tmp_path, full)
    with pytest.raises(OSError, match="elsewhere"):
        fail(ALONE, tmp_path, OSError(28, "No space left on device", "/elsewhere"))


def test_one_of_several_processes_reports_and_all_exit(ranks, tmp_path, capsys):
    for processes in ranks:
        with pytest.raises(SystemExit) as exit:
            fail(processes, tmp_path, UserError("all find\nthe same"))
        assert exit.value.code == 2
    assert capsys.readouterr().err == "error: all find the same\n"
    assert (tmp_path / "log.txt").read_text().count("error: all find the same") == 3


def test_an_error_of_one_rank_names_the_rank_and_its_log(ranks, tmp_path, capsys):
    with pytest.raises(SystemExit) as exit:
        fail(ranks[2], tmp_path, ZeroDivisionError("division by zero"))
    assert exit.value.code == 1
    log = tmp_path / "log.txt"
    line = f"error on rank 2 ({os.uname().nodename}): ZeroDivisionError: division by zero; the traceback is in {log}\n"
    assert capsys.readouterr().err == line
    assert "Traceback (most recent call last)" in log.read_text()


@pytest.mark.parametrize(
    "noticed, reason, message",
    [
        ([2], "Connection closed by peer (gloo)", "rank 1 has ended: the sum of gradients cannot be completed"),
        ([], "gloo: Timed out", r"ranks 1, 2 do not answer \(they hang or are cut off\): the sum of gradients"),
    ],
)
def test_processes_that_do_not_notice_the_error_are_reported_as_lost(noticed, reason, message, ranks):
    for rank in noticed:
        ranks[rank].store.set(f"noticed/{rank}", "")
    with pytest.raises(ProcessLost, match=message), ranks[0].collective("sum of gradients"):
        raise RuntimeError(reason)


def test_errors_other_than_network_errors_are_not_changed(ranks):
    with pytest.raises(RuntimeError, match="out of memory"), ranks[0].collective("sum of gradients"):
        raise RuntimeError("out of memory")


def test_a_store_that_does_not_answer_does_not_block_the_report(ranks, tmp_path, capsys, monkeypatch):
    def never(*_):
        raise dist.DistNetworkError("out of reach")

    monkeypatch.setattr(dist.HashStore, "add", never, raising=False)
    with pytest.raises(SystemExit):
        fail(ranks[0], tmp_path, UserError("alone"))
    assert capsys.readouterr().err == "error: alone\n"
