"""Pictures of a run for its loggers: first micro-batch, best evaluations, curves."""

from collections.abc import Callable, Sequence
from pathlib import Path

from dat_train.run_report.curves import write_curves
from dat_train.training.loggers.logger import Logger
from dat_train.training.run_context import RunContext
from dat_train.training.task import Evaluation, MicroBatch, MicroBatchKey, Task


class RunPictures:
    """Writer of pictures into the run's folder, which also passes them to the loggers.

    A picture that cannot be drawn is reported once and does not end the run.
    """

    def __init__(self, context: RunContext, loggers: Sequence[Logger]) -> None:
        self.folder = context.folder
        self.warn = context.terminal.warn
        self.loggers = loggers
        self._failed: set[str] = set()

    def batch(self, task: Task, batch: MicroBatch, key: MicroBatchKey) -> None:
        """Draw the run's first micro-batch."""
        self._draw("batch", 0, lambda path: task.draw_batch(batch, key, path))

    def evaluation(self, evaluation: Evaluation, step: int) -> None:
        """Draw the pictures of the evaluation after `step` steps."""
        for name, draw in evaluation.pictures.items():
            self._draw(name, step, draw)

    def curves(self, step: int) -> None:
        self._draw("curves", step, lambda path: write_curves(self.folder.metrics, path))

    def _draw(self, name: str, step: int, draw: Callable[[Path], object]) -> None:
        if name in self._failed:
            return
        path = self.folder.picture(name)
        try:
            draw(path)
        except Exception as error:  # for example a full disk; training is more important
            self._failed.add(name)
            self.warn(f"the picture {path} cannot be drawn ({error}); the run continues without it")
            return
        for logger in self.loggers:
            logger.log_picture(name, path, step)
