"""Protection of a run from failing loggers."""

from collections.abc import Callable

from dat_train.training.loggers.logger import Logger


class FailSafeLogger:
    """A logger whose first failure is reported and which is not used afterwards.

    Args:
        title: name for the report.
        make: opens the logger.
        warn: called with the report.
    """

    def __init__(self, title: str, make: Callable[[], Logger], warn: Callable[[str], None]) -> None:
        self.title = title
        self.warn = warn
        self.failed = False
        self._logger = self._try(make)

    def __getattr__(self, name: str) -> Callable[..., None]:
        """A method of `Logger` that does nothing after a failure."""
        return lambda *arguments: self._try(lambda: getattr(self._logger, name)(*arguments))

    def _try(self, action: Callable[[], Logger | None]) -> Logger | None:
        if self.failed:
            return None
        try:
            return action()
        except Exception as error:  # of any kind: training is more important
            self.failed = True
            reason = (str(error).splitlines() or [""])[0]
            self.warn(f"{self.title} failed ({type(error).__name__}: {reason}); the run continues without it")
            return None
