"""dat-report: one page about one run, or several side by side."""

from pathlib import Path
from typing import TYPE_CHECKING

from dat_train.commands.cli import run_command
from dat_train.commands.command import Command
from dat_train.config import ReportConfig
from dat_train.errors import UserError

if TYPE_CHECKING:
    from omegaconf import DictConfig

COMMAND = Command(
    name="report",
    schema=ReportConfig,
    groups=(),
    usage="""\
dat-report RUN ... [output=PAGE.html]     one page about one run, or several side by side

  dat-report runs/digits
  dat-report runs/a runs/b output=a-and-b.html
  dat-report runs/sweep-*""",
    notes="""\
The page needs no network: results, curves over each other, settings with their differences marked, and, where dat-eval
was run, accuracy of each class, confusions and the surest mistakes; then the faults each run met.""",
    positional="runs",
)


def main() -> None:
    run_command(COMMAND, report)


def report(config: "DictConfig") -> None:
    from dat_train.run_report.page import write_run_page  # imports torch, which help and mistakes do without
    from dat_train.run_report.run_record import open_runs

    runs = open_runs(list(config.runs))
    try:
        path = write_run_page(runs, Path(config.output))
    except OSError as error:
        raise UserError(f"{config.output} cannot be written ({error.strerror}); set output=PAGE.html") from error
    print(f"{len(runs)} run{'s' if len(runs) > 1 else ''}: {path}")


if __name__ == "__main__":
    main()
