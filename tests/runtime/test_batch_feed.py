"""Data workers that are killed, in training and in validation."""

import multiprocessing
import os
import signal
import time

import pytest
import torch
from torch.utils.data import Dataset
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter
from training.small_run import run_small, small_training

from dat_train.data import loader as loader_module
from dat_train.data.batch import Batch
from dat_train.data.loader import evaluation_loader
from dat_train.errors import UserError
from dat_train.runtime import batch_feed as feed_module
from dat_train.runtime.batch_feed import MAX_DEATHS, BatchFeed, Stopped, feed_once
from dat_train.runtime.stop_request import StopRequest

FILES = ("checkpoints/last.pt", "checkpoints/best.pt", "metrics.jsonl")


def content(folder) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in FILES}


class Deadly:
    """A data set that kills the worker process at the first read of one of its images.

    Args:
        index: of the image; mark: a file that exists after the kill.
    """

    def __init__(self, dataset, index: int, mark) -> None:
        self.dataset, self.index, self.mark = dataset, index, mark

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key):
        if key.index == self.index and not self.mark.exists():
            self.mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return self.dataset[key]


def deadly(loader, index: int, mark):
    """`loader` with a data set that kills a worker once."""
    object.__setattr__(loader, "dataset", Deadly(loader.dataset, index, mark))
    return loader


@pytest.fixture
def short_timeouts(monkeypatch):
    """torch checks its workers every 5 seconds; every 0.2 seconds here."""
    monkeypatch.setattr(_MultiProcessingDataLoaderIter._try_get_data, "__defaults__", (0.2,))


def test_a_worker_that_is_killed_changes_nothing(tmp_path, short_timeouts):
    settings = {"epochs": 1, "workers": 1}
    assert run_small(tmp_path / "well", **settings)
    training = small_training(tmp_path / "ill", **settings)
    make_loader = training.make_loader
    training.make_loader = lambda first: deadly(make_loader(first), 7, tmp_path / "in training")
    training.val_loader = deadly(training.val_loader, 20, tmp_path / "in validation")  # in its third batch
    assert training.run()
    training.log.folder.unlock()
    assert (tmp_path / "in training").exists() and (tmp_path / "in validation").exists()
    log = training.log.folder.log.read_text()
    assert "warning: a data worker died at step" in log
    assert "warning: a data worker died at validation batch" in log
    assert content(tmp_path / "well") == content(tmp_path / "ill")


class LargeImages(Dataset):
    """Batches of 3 MB, more than a pipe buffers."""

    def __len__(self) -> int:
        return 32

    def __getitem__(self, key) -> torch.Tensor:
        return torch.full((3, 256, 256), key.index, dtype=torch.uint8)

    @staticmethod
    def collate(images: list) -> torch.Tensor:
        return torch.stack(images)


def test_a_worker_that_is_killed_while_it_sends_a_batch_is_replaced(monkeypatch):
    """With small shared memory, whole batches pass through a pipe, and the rest of a message never arrives."""
    monkeypatch.setattr(loader_module, "shared_memory_is_small", lambda: True)
    monkeypatch.setattr(feed_module, "DEATH_SECONDS", 0.5)
    warnings, batches = [], evaluation_loader(LargeImages(), batch_size=16, workers=1)
    feed = feed_once(batches, warnings.append, timeout_minutes=1)
    found = [next(feed)]
    time.sleep(2)  # the worker has filled the pipe with the beginning of the next batch
    (worker,) = multiprocessing.active_children()
    worker.kill()
    found += feed
    assert [batch[:, 0, 0, 0].tolist() for batch in found] == [list(range(16)), list(range(16, 32))]
    assert len(warnings) == 1 and "while it sent a batch" in warnings[0]


def a_batch(number: int) -> Batch:
    return Batch(torch.full((1,), float(number)), torch.zeros(1), torch.zeros(1), [])


def dying_loader(first: int):
    yield a_batch(10 * first)
    raise RuntimeError("DataLoader worker (pid 5) is killed by signal: Killed. \nmore")


def test_batches_continue_at_the_micro_batch_at_which_the_worker_died():
    """Two micro-batches a step; a loader gives one batch of a step, then dies."""
    starts, warnings = [], []

    def make_loader(first):
        starts.append(first)
        if len(starts) == 1:
            return dying_loader(first)
        return iter([a_batch(10 * first), a_batch(10 * first + 1)])

    feed = BatchFeed(make_loader, warnings.append)
    assert [feed.next(4, turn).images.item() for turn in (0, 1)] == [40, 41]
    assert starts == [4, 4]
    assert warnings == [
        "a data worker died at step 4 (DataLoader worker (pid 5) is killed by signal: Killed.); "
        "starting the workers again"
    ]


def failing(error):
    def make_loader(_first):
        raise error
        yield

    return make_loader


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("DataLoader worker (pid(s) 5) exited unexpectedly"),
        ConnectionResetError(104, "Connection reset by peer"),  # it died while it handed a batch over
        EOFError(),
    ],
)
def test_workers_that_keep_dying_end_the_run(error):
    warnings = []
    feed = BatchFeed(failing(error), warnings.append)
    with pytest.raises(UserError, match=r"data workers keep dying at step 0 .*--shm-size.*data\.workers=0"):
        feed.next(0, 0)
    assert len(warnings) == MAX_DEATHS and all("a data worker died at step 0 (" in line for line in warnings)


def test_other_errors_of_the_data_are_raised():
    warnings = []
    feed = BatchFeed(failing(RuntimeError("sizes do not match")), warnings.append)
    with pytest.raises(RuntimeError, match="sizes do not match"):
        feed.next(0, 0)
    assert not warnings


def test_a_worker_that_dies_does_not_interrupt_an_update(tmp_path):
    """torch's own handler would raise an error anywhere in the main thread."""
    training = small_training(tmp_path, workers=1)
    iter(training.val_loader)  # torch sets its handler with the first workers: here, a validation's
    before = signal.getsignal(signal.SIGCHLD)
    feed = BatchFeed(training.make_loader, print)
    feed.next(0, 0)
    assert signal.getsignal(signal.SIGCHLD) is before
    for worker in multiprocessing.active_children():
        worker.kill()
    time.sleep(0.2)  # an update, undisturbed
    feed.close()
    training.log.folder.unlock()


class Stuck:
    """A loader whose batches never arrive, as on a network disk that does not answer."""

    def __iter__(self):
        time.sleep(60)
        yield a_batch(0)


def test_the_wait_for_a_batch_ends_with_the_time_out():
    feed = BatchFeed(lambda first: iter(Stuck()), print, timeout_minutes=0.3 / 60)
    start = time.monotonic()
    with pytest.raises(UserError, match=r"no batch arrived within 0\.005 minutes at step 4: the storage does not"):
        feed.next(4, 0)
    assert time.monotonic() - start < 5


def test_the_wait_for_a_batch_ends_after_a_stop_request(monkeypatch):
    monkeypatch.setattr(feed_module, "STOP_SECONDS", 0.3)
    stop = StopRequest()
    stop.name = "SIGTERM"
    with pytest.raises(Stopped, match="stopped by SIGTERM while no batch arrived at step 4"):
        BatchFeed(lambda first: iter(Stuck()), print, stop=stop).next(4, 0)


def test_a_run_that_is_asked_to_stop_while_a_read_hangs_saves_the_step_before(tmp_path, monkeypatch):
    monkeypatch.setattr(feed_module, "STOP_SECONDS", 0.3)
    training = small_training(tmp_path, epochs=1)
    make_loader = training.make_loader

    def two_steps_then_nothing(first):
        for number, batch in enumerate(make_loader(first)):
            if number == 2 * training.plan.micro_batches:
                training.context.stop.name = "SIGTERM"
                time.sleep(60)
            yield batch

    training.make_loader = two_steps_then_nothing
    assert not training.run()
    training.context.folder.unlock()
    assert run_small(tmp_path, epochs=1)
    assert run_small(tmp_path / "well", epochs=1)
    assert content(tmp_path) == content(tmp_path / "well")


def test_full_shared_memory_is_one_line_with_the_ways_out():
    full = RuntimeError("unable to write to file </torch_5>: No space left on device (28)")
    with pytest.raises(UserError, match=r"shared memory \(/dev/shm\) is full at step 0; .*--shm-size=8g or --ipc=host"):
        BatchFeed(failing(full), print).next(0, 0)
