"""Stop requests while the storage of one process of several does not answer, and of a run under nohup."""

import signal
import time
from functools import partial
from pathlib import Path

import pytest
from training.real_run import RealRun, ended, ranks, steps_done
from troubleshooting import entry

from dat_train.data.generated.fake import FakeImages
from dat_train.models.weights.checkpoint import Checkpoint
from dat_train.runtime import batch_feed
from dat_train.runtime.stop_request import PREEMPTED

pytestmark = pytest.mark.long
SETTINGS = ("data.workers=0", "checkpoint.every_minutes=60")


def stalling_read(training: bool, reads: int) -> None:
    """Let all reads of training (or validation) images after the first `reads` wait forever, as of a network disk."""
    batch_feed.STOP_SECONDS = 0.5
    get = FakeImages.__getitem__
    count = [0]

    def read(self, key):
        count[0] += self.training == training
        if count[0] > reads:
            Path("stalled").touch()
            time.sleep(1000)
        return get(self, key)

    FakeImages.__getitem__ = read


def ignore_hangup() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # what nohup does


EIGHTH_STEP = (True, 28, 7)  # four images a step in each of two processes; an epoch has six steps
SECOND_VALIDATION = (False, 25, 12)  # about ten images for the model and ten for its average in each process


@pytest.mark.parametrize(("stalled", "position"), [(0, EIGHTH_STEP), (1, EIGHTH_STEP), (1, SECOND_VALIDATION)])
def test_the_last_step_is_saved_whichever_rank_waits_for_its_storage(stalled, position, tmp_path):
    training, reads, last = position
    runs = ranks(tmp_path, 2, *SETTINGS, sabotage={stalled: partial(stalling_read, training, reads)})
    with ended(*runs):
        runs[stalled].wait_for(lambda: (tmp_path / "stalled").exists())
        for run in runs:
            run.send(signal.SIGTERM)
        codes = [run.wait(60) for run in runs]
    assert codes[stalled] == PREEMPTED, [run.output for run in runs]
    step = Checkpoint.open(runs[0].run / "checkpoints/last.pt").content["step"]
    assert step == steps_done(runs[0].run) == last
    again = ranks(tmp_path, 2, *SETTINGS, "max_steps=14")
    with ended(*again):
        assert [run.wait(60) for run in again] == [0, 0]
    assert f"continuing after step {last}" in again[0].output


def test_a_run_under_nohup_outlives_its_terminal_and_another_one_is_stopped_by_it(tmp_path):
    for name, sabotage, code in (("nohup", ignore_hangup, 0), ("plain", None, PREEMPTED)):
        run = RealRun(tmp_path / name, *SETTINGS, sabotage=sabotage)
        with ended(run):
            run.wait_for_step(3)
            run.send(signal.SIGHUP)
            assert run.wait(60) == code, run.output
    assert "stopped by SIGHUP after step" in run.output and entry("stopped").search(run.output)
