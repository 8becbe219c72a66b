"""The pictures of a run for who logs it elsewhere: its first micro-batch, confusions, curves."""

from collections.abc import Callable, Sequence

from torch import Tensor

from dat_train.evaluation.classification import Evaluation
from dat_train.evaluation.confusion_picture import write_confusion
from dat_train.run_report.curves import write_curves
from dat_train.training.loggers import Logger
from dat_train.training.run_folder import RunFolder
from dat_train.viewer.batch_picture import write_batch_picture


class RunPictures:
    """Draws into the run's folder and hands to loggers; a picture that fails is warned of once and ends nothing.

    Args:
        classes, mean, std: of the training images.
        warn: called with a line.
    """

    def __init__(
        self,
        folder: RunFolder,
        loggers: Sequence[Logger],
        classes: Sequence[str],
        mean: Sequence[float],
        std: Sequence[float],
        warn: Callable[[str], None],
    ) -> None:
        self.folder = folder
        self.loggers = loggers
        self.classes = classes
        self.mean, self.std = mean, std
        self.warn = warn
        self._failed: set[str] = set()

    def batch(self, images: Tensor, targets: Tensor) -> None:
        """The run's first micro-batch, (B, C, H, W) and (B, classes), as the model gets it."""
        path = self.folder.batch_picture
        self._draw(
            "batch", path, 0, lambda: write_batch_picture(images, targets, self.classes, path, self.mean, self.std)
        )

    def confusion(self, evaluation: Evaluation, step: int) -> None:
        path = self.folder.confusion
        self._draw(
            "confusion",
            path,
            step,
            lambda: write_confusion(evaluation.labels, evaluation.predicted, self.classes, path),
        )

    def curves(self, step: int) -> None:
        self._draw("curves", self.folder.curves, step, lambda: write_curves(self.folder.metrics, self.folder.curves))

    def _draw(self, name: str, path, step: int, draw: Callable[[], object]) -> None:
        if name in self._failed:
            return
        try:
            draw()
        except Exception as error:  # a full disk, an odd font: training matters more
            self._failed.add(name)
            self.warn(f"the picture {path} cannot be drawn ({error}); the run goes on without it")
            return
        for logger in self.loggers:
            logger.log_picture(name, path, step)
