"""dat-train, killed with SIGKILL at random moments and started again, ends with the bytes of an uninterrupted run."""

import os
import random
import signal
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from training.real_run import RealRun, content, ended

from dat_train.data.generated.fake import FakeImages

pytestmark = pytest.mark.long

# Where a process kills itself: (audit event of Python, the path it must concern)
EVENTS = {
    "writing last.pt": ("open", "checkpoints/.last.pt.new"),
    "writing best.pt": ("open", "checkpoints/.best.pt.new"),
    "before the rename": ("os.rename", "checkpoints/.last.pt.new"),
    "between rename and flush": ("open", "checkpoints"),  # the folder is opened to be flushed
    "writing metrics.jsonl": ("open", "metrics.jsonl"),
    "validating": ("os.fork", ""),  # of its data workers
}
MOMENTS = (*EVENTS, "in a data worker", "whenever")


@dataclass
class Kill:
    """Sabotage of a process: SIGKILL `delay` seconds after the `count`-th event of `moment`."""

    moment: str
    count: int
    delay: float
    seen: int = 0

    def __call__(self) -> None:
        if self.moment in EVENTS:
            sys.addaudithook(self._watch)
        elif self.moment == "in a data worker":
            FakeImages.read = self._counted(FakeImages.read)

    def _watch(self, event: str, arguments: tuple) -> None:
        name, path = EVENTS[self.moment]
        if event == name and (not path or str(arguments[0]).endswith(path)):
            self.seen += 1
            if self.seen == self.count:
                self._die(os.getpid())

    def _counted(self, read):
        def counted(images, index):
            self.seen += 1
            if self.seen == 8 * self.count:
                self._die(os.getppid())  # the training process, in the middle of its worker's work
            return read(images, index)

        return counted

    def _die(self, process: int) -> None:
        def kill():
            time.sleep(self.delay)
            os.kill(process, signal.SIGKILL)

        if self.delay:
            threading.Thread(target=kill, daemon=True).start()
        else:
            os.kill(process, signal.SIGKILL)


def kills(number: int, seed: int) -> list[Kill]:
    """Random kills, nearly equally many of every kind."""
    draw = random.Random(seed)
    moments = [MOMENTS[position % len(MOMENTS)] for position in range(number)]
    draw.shuffle(moments)
    moments.sort(key=lambda moment: moment != "writing best.pt")  # the first validation is the best for certain
    longest = {"writing last.pt": 0.01, "writing best.pt": 0.01, "validating": 0.1, "whenever": 0.3}
    counts = {"writing best.pt": 1, "validating": 2}  # the first workers are those of training
    return [
        Kill(moment, counts.get(moment) or draw.randint(1, 3), draw.uniform(0, longest.get(moment, 0)))
        for moment in moments
    ]


def run_with_kills(folder: Path, schedule: list[Kill], *settings: str) -> Path:
    """Start the command repeatedly until it ends without a kill; every kill of `schedule` must have happened."""
    for kill in schedule:
        process = RealRun(folder, *settings, sabotage=kill)
        with ended(process):
            if kill.moment == "whenever":
                rows = timing_rows(process.run)
                process.wait_for(lambda: timing_rows(process.run) > rows)  # noqa: B023
                time.sleep(kill.delay)
                process.send(signal.SIGKILL)
            assert process.wait() == -signal.SIGKILL, (kill, process.output)
    process = RealRun(folder, *settings)
    with ended(process):
        assert process.wait(600) == 0, process.output
    return process.run


def timing_rows(run: Path) -> int:
    path = run / "timing.jsonl"
    return path.read_bytes().count(b"started") if path.exists() else 0


def compare(tmp_path: Path, number: int, seed: int, epochs: int) -> None:
    settings = (f"epochs={epochs}",)
    through = RealRun(tmp_path / "through", *settings)
    killed = run_with_kills(tmp_path / "killed", kills(number, seed), *settings)
    assert through.wait(600) == 0, through.output
    assert content(killed) == content(through.run)
    assert timing_rows(killed) > number // 2  # most of these processes trained


def test_a_run_killed_at_20_random_moments_ends_with_the_same_bytes(tmp_path):
    compare(tmp_path, 20, seed=0, epochs=15)


@pytest.mark.slow
def test_a_run_killed_at_200_random_moments_ends_with_the_same_bytes(tmp_path):
    compare(tmp_path, 200, seed=1, epochs=140)
