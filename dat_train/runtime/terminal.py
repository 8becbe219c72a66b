"""Output of a command: lines, and a progress bar below them if the output is a terminal."""

import contextlib
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn


class Terminal:
    """Output of lines to the screen and a log file, and a progress bar.

    Args:
        log_path: log file to which every line is appended with the time; None: no log file.
        screen: write to the screen (rank 0), or only to the log file.
    """

    def __init__(self, log_path: Path | None = None, screen: bool = True) -> None:
        self.log_path = log_path
        self.screen = screen
        self.live = screen and sys.stdout.isatty()  # with a progress bar
        self._console = Console(soft_wrap=True, highlight=False, markup=False)
        self._bar: Progress | None = None
        self._task: TaskID | None = None

    def say(self, text: str = "") -> None:
        """Print one or several lines, and append them to the log file."""
        if self.live:
            self._console.print(text)
        elif self.screen:
            with contextlib.suppress(OSError):  # a full disk or a closed pipe must not end the run
                print(text, flush=True)
        self.record(text)

    def record(self, text: str) -> None:
        """Append lines to the log file only."""
        if self.log_path is not None:
            stamp = time.strftime("%Y-%m-%d %H:%M:%S")
            lines = [f"{stamp}  {line}".rstrip() + "\n" for line in text.splitlines()]
            text = "".join(lines)
            with contextlib.suppress(OSError), self.log_path.open("ab") as file:
                file.write(text.encode("utf-8", "backslashreplace"))  # paths and class names may have any bytes

    def warn(self, text: str) -> None:
        """Print a line that begins with "warning:"."""
        self.say(f"warning: {text}")

    def progress(self, step: int, steps: int, text: str | None = None) -> None:
        """Update the progress bar and the text after it (None: unchanged). No operation without a terminal."""
        if not self.live:
            return
        if self._bar is None:
            self._bar = Progress(
                TextColumn("step {task.completed:,.0f}/{task.total:,.0f}"),
                BarColumn(bar_width=None),
                TextColumn("{task.percentage:3.0f} %  {task.fields[text]}"),
                console=self._console,
                expand=True,
                refresh_per_second=4,
            )
            self._task = self._bar.add_task("", total=steps, completed=step, text="starting")
            self._bar.start()
        self._bar.update(self._task, completed=step, **({} if text is None else {"text": text}))

    def close(self) -> None:
        """Remove the progress bar."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def eta(seconds: float, done: int, total: int) -> str:
    """Estimated remaining time of `total` steps of which `done` took `seconds`: "ETA 3 min 05 s"."""
    return f"ETA {duration(seconds / max(1, done) * (total - done))}"


def duration(seconds: float) -> str:
    """Format a duration: 42 s, 3 min 05 s, 2 h 07 min, 1 d 4 h."""
    seconds = round(seconds)
    minutes, hours = seconds // 60, seconds // 3600
    if seconds < 60:
        return f"{seconds} s"
    if minutes < 60:
        return f"{minutes} min {seconds % 60:02d} s"
    if hours < 24:
        return f"{hours} h {minutes % 60:02d} min"
    return f"{hours // 24} d {hours % 24} h"
