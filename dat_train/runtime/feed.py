"""The batches of this process, one after the other, also when a data worker dies."""

from collections.abc import Callable, Iterable

from dat_train.data.loader import Batch

WORKER_DIED = ("exited unexpectedly", "killed by signal")  # in torch's message; other errors of a worker are real ones
PATIENCE = 3  # deaths in a row before the run gives up


class Feed:
    """Batches in order, from any step on.

    A batch depends on its place in the run alone, so when a worker process dies (most often killed for memory), new
    workers are started at the same place and nothing is lost or changed.

    Args:
        make_loader: (first step) -> iterable of this process' micro-batches from that step on.
        warn: called with a line when workers are started again.
        unit: what `step` counts, for that line.
    """

    def __init__(
        self, make_loader: Callable[[int], Iterable[Batch]], warn: Callable[[str], None], unit: str = "step"
    ) -> None:
        self._make_loader = make_loader
        self._warn = warn
        self._unit = unit
        self._batches = None

    def next(self, step: int, turn: int) -> Batch:
        """This process' micro-batch number `turn` of `step`; to be asked for in order.

        Raises:
            RuntimeError, ConnectionError, EOFError: workers keep dying.
        """
        for death in range(PATIENCE + 1):
            try:
                if self._batches is None:
                    self._start(step, turn)
                return next(self._batches)
            except (RuntimeError, ConnectionError, EOFError) as error:
                if death == PATIENCE or not _is_death(error):
                    raise
                reason = (str(error) or type(error).__name__).splitlines()[0].strip()
                self._warn(f"a data worker died at {self._unit} {step:,} ({reason}); starting the workers again")
                self._batches = None

    def close(self) -> None:
        """End the workers."""
        self._batches = None

    def _start(self, step: int, turn: int) -> None:
        self._batches = iter(self._make_loader(step))
        for _ in range(turn):
            next(self._batches)


def _is_death(error: Exception) -> bool:
    """True for the error of a worker that died, also while it handed a batch over."""
    return not isinstance(error, RuntimeError) or any(words in str(error) for words in WORKER_DIED)
