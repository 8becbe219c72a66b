"""dat-report: HTML page about one run, or a comparison of several runs."""

from pathlib import Path

from dat_train.commands.output_folder import output_errors
from dat_train.run_report.run_page import write_run_page
from dat_train.run_report.run_record import open_runs
from dat_train.settings import CommandLine, Settings


def run(config: Settings, command_line: CommandLine) -> None:
    """Write the page.

    Raises:
        UserError: a folder that is not a run folder, or an output that cannot be written.
    """
    runs = open_runs(config.runs)
    with output_errors(config.output, "PAGE.html"):
        path = write_run_page(runs, Path(config.output))
    print(f"{len(runs)} run{'s' if len(runs) > 1 else ''}: {path}")
