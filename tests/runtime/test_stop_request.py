"""Requests to stop by one signal and by two."""

import os
import signal
import time

import pytest

from dat_train.runtime import stop_request as signals
from dat_train.runtime.stop_request import PREEMPTED, SIGNALS, StopRequest


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_signal_is_remembered(number):
    former = signal.signal(number, signal.SIG_DFL)  # nohup, which the tests may run under, ignores SIGHUP
    try:
        with StopRequest() as stop:
            assert not stop.requested
            os.kill(os.getpid(), number)
            assert stop.requested and stop.name == signal.Signals(number).name
    finally:
        signal.signal(number, former)


def test_the_former_handlers_are_restored():
    before = [signal.getsignal(number) for number in SIGNALS]
    with StopRequest():
        assert [signal.getsignal(number) for number in SIGNALS] != before
    assert [signal.getsignal(number) for number in SIGNALS] == before


def in_a_child(action) -> int:
    """Exit code of a forked process that runs `action`; 0 without a signal."""
    if (child := os.fork()) == 0:
        try:
            action()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def twice(pause: float) -> None:
    with StopRequest():
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(pause)


def test_the_second_signal_exits_at_once(monkeypatch):
    monkeypatch.setattr(signals, "SAME_SECONDS", 0.02)
    assert in_a_child(lambda: twice(0.1)) == PREEMPTED == 75


def test_one_signal_that_comes_twice_counts_once():
    """From the terminal to the process group, and again from torchrun."""
    assert in_a_child(lambda: twice(0.01)) == 0


def test_a_data_worker_ignores_the_request():
    with StopRequest() as stop:
        assert in_a_child(lambda: [os.kill(os.getpid(), signal.SIGTERM) for _ in range(2)]) == 0
        assert not stop.requested
