"""Batches of this process in order, with a time-out and a restart of data workers that died."""

import queue
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import Future, wait
from dataclasses import KW_ONLY, dataclass
from typing import Any

from dat_train.errors import UserError
from dat_train.runtime.stop_request import StopRequest

WORKER_DIED = ("exited unexpectedly", "killed by signal")  # in torch's message
NO_SHARED_MEMORY = ("unable to write to file", "unable to allocate shared memory", "No space left on device")
MAX_DEATHS = 3  # consecutive deaths of workers before the run ends
TIMEOUT_MINUTES = 30.0
POLL_SECONDS = 0.2  # between checks of the stop request while no batch arrives
DEATH_SECONDS = 10.0  # after a worker's death, which torch reports sooner unless its message is incomplete
STOP_SECONDS = 10.0  # seconds that a stop request waits for the batch that is being read
SHARED_MEMORY_ADVICE = (
    "give the container more shared memory (docker run --shm-size=8g or --ipc=host), or set data.workers=0 or a "
    "smaller batch"
)


class Stopped(UserError):  # noqa: N818  not an error of the run
    """The run is asked to stop, and the next batch does not arrive."""


@dataclass(eq=False)
class BatchFeed:
    """Batches in order, from any step on.

    A batch depends only on its position in the run. If a worker process dies (most often killed because memory is
    full), new workers are started at the same position, and nothing is lost or changed. Batches are fetched in a
    thread, so that a read that does not return blocks neither a stop request nor the time-out.

    Args:
        make_loader: maps a step to an iterable of the micro-batches of this process from that step on.
        warn: called with a line when workers are restarted.
        unit: unit of `step` in messages.
        stop: request to stop; None: the wait for a batch cannot be stopped.
        timeout_minutes: maximum wait for a batch.
    """

    make_loader: Callable[[int], Iterable[Any]]
    warn: Callable[[str], None]
    _: KW_ONLY
    unit: str = "step"
    stop: StopRequest | None = None
    timeout_minutes: float = TIMEOUT_MINUTES

    def __post_init__(self) -> None:
        self._batches: Iterator[Any] | None = None
        self._requests: queue.SimpleQueue | None = None  # of the thread that fetches the batches

    def next(self, step: int, turn: int) -> Any:
        """Return micro-batch number `turn` of this process in `step`. Called in order.

        Raises:
            Stopped: the run is asked to stop, and the batch does not arrive.
            UserError: workers keep dying, shared memory is full, or no batch arrives within the time-out.
        """
        for death in range(MAX_DEATHS + 1):
            try:
                if self._batches is None:
                    self._start(step, turn)
                return self._fetch(step)
            except (RuntimeError, ConnectionError, EOFError) as error:
                reason = (str(error) or type(error).__name__).splitlines()[0].strip()
                if any(words in str(error) for words in NO_SHARED_MEMORY):
                    raise UserError(
                        f"shared memory (/dev/shm) is full at {self.unit} {step:,}; {SHARED_MEMORY_ADVICE}"
                    ) from error
                if not _is_death(error):
                    raise
                if death == MAX_DEATHS:
                    raise UserError(
                        f"data workers keep dying at {self.unit} {step:,} ({reason}); {SHARED_MEMORY_ADVICE}"
                    ) from error
                self.warn(f"a data worker died at {self.unit} {step:,} ({reason}); starting the workers again")
                self._batches = None

    def close(self) -> None:
        """End the workers."""
        if self._requests:
            self._requests.put(None)
        self._requests = self._batches = None

    def _start(self, step: int, turn: int) -> None:
        self._batches = iter(self.make_loader(step))
        for _ in range(turn):
            self._fetch(step)

    def _fetch(self, step: int) -> Any:
        if self._requests is None:
            self._requests = queue.SimpleQueue()
            # a daemon, so that a read that does not return ends with the process
            threading.Thread(target=_fetch_all, args=(self._requests,), name="feed", daemon=True).start()
        batch: Future = Future()
        self._requests.put((batch, self._batches))
        start, stopping_since, dead_since = time.monotonic(), None, None
        while not wait([batch], POLL_SECONDS).done:
            now = time.monotonic()
            if self.stop and self.stop.requested:
                stopping_since = stopping_since or now
            if any(not worker.is_alive() for worker in getattr(self._batches, "workers", ())):
                dead_since = dead_since or now
            if dead_since and now - dead_since > DEATH_SECONDS:
                self._abandon()
                raise RuntimeError("a data worker exited unexpectedly while it sent a batch")
            if stopping_since and now - stopping_since > STOP_SECONDS:
                self._abandon()
                raise Stopped(f"stopped by {self.stop.name} while no batch arrived at {self.unit} {step:,}")
            if now - start > 60 * self.timeout_minutes:
                self._abandon()
                raise UserError(
                    f"no batch arrived within {self.timeout_minutes:g} minutes at {self.unit} {step:,}: the storage "
                    f"does not answer, or shared memory is full; check data.root, or {SHARED_MEMORY_ADVICE}; "
                    "timeout_minutes=... waits longer"
                )
        return batch.result()

    def _abandon(self) -> None:
        """Leave the thread, whose read does not return, and end the workers."""
        for worker in getattr(self._batches, "workers", ()):
            worker.kill()
        self.close()


def _fetch_all(requests: queue.SimpleQueue) -> None:
    """Set each requested future to the next item of its iterator, or to its error, until a request is None."""
    while request := requests.get():
        future, batches = request
        batch, failure = None, None
        try:
            batch = next(batches)
        except StopIteration as error:
            failure = RuntimeError(f"the loader has too few batches: {error}")
        except BaseException as error:  # raised in the requesting thread
            failure = error
        del request, batches  # only the requesting thread may keep the iterator, whose deletion ends the workers
        if failure is None:
            future.set_result(batch)
        else:
            future.set_exception(failure)
        del future, batch, failure


def feed_once(
    batches: Collection[Any],
    warn: Callable[[str], None],
    *,
    unit: str = "batch",
    stop: StopRequest | None = None,
    timeout_minutes: float = TIMEOUT_MINUTES,
) -> Iterator[Any]:
    """Yield all items of a loader with a length, as `BatchFeed` does: for evaluation and prediction.

    After the death of a worker, the batches up to the current one are read again.
    """
    feed = BatchFeed(lambda number: batches, warn, unit=unit, stop=stop, timeout_minutes=timeout_minutes)
    try:
        for number in range(len(batches)):
            yield feed.next(number, turn=number)  # the loader begins at its first batch: `number` are skipped
    finally:
        feed.close()


def _is_death(error: Exception) -> bool:
    """True if a worker died: torch reports it, or the worker died while it handed over a batch."""
    return not isinstance(error, RuntimeError) or any(words in str(error) for words in WORKER_DIED)
