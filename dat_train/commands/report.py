"""dat-report: HTML page about one run, or a comparison of several runs."""

from importlib import import_module
from pathlib import Path

from dat_train.commands.request import Request
from dat_train.errors import UserError
from dat_train.run_report.run_page import write_run_page
from dat_train.run_report.run_record import open_runs
from dat_train.settings import Settings


def run(config: Settings, request: Request) -> None:
    """Write the page.

    Raises:
        UserError: a folder that is not a run folder, or an output that cannot be written.
    """
    runs = open_runs(config.runs)
    try:
        path = write_run_page(runs, Path(config.output))
    except OSError as error:
        raise UserError(f"{config.output} cannot be written ({error.strerror}); set output=PAGE.html") from error
    print(f"{len(runs)} run{'s' if len(runs) > 1 else ''}: {path}")


if __name__ == "__main__":
    # The command line is a floor above, so it is imported by name and only here.
    import_module("dat_train.cli.main").main("report")
