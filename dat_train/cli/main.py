"""Entry points of the commands: help, errors in one line, exit codes."""

import sys
from collections.abc import Callable
from functools import partial
from typing import NoReturn

from dat_train import __version__
from dat_train.cli.command_table import COMMANDS, Command
from dat_train.cli.help import full, usage
from dat_train.cli.machine_faults import check_environment, environment_error
from dat_train.cli.streams import flush_all, make_safe, reader_has_left, report_error
from dat_train.errors import UserError


def main(name: str) -> NoReturn:
    """Run the command dat-`name` with the arguments in sys.argv, and exit."""
    run_command(COMMANDS[name])


def run_command(command: Command, run: Callable | None = None) -> NoReturn:
    """Compose the settings of `command` from conf/NAME.yaml and the command line, run it, exit.

    Exit codes: 0; 1 after an unexpected error, with its traceback; 2 after an error the user can fix, in one line;
    130 after an interrupt; and any code the command itself exits with.

    Args:
        run: function of (config, command_line) to call instead of the command's own.
    """
    make_safe()
    code = 0
    try:
        _answer(command, run)
    except SystemExit as ending:
        code = ending.code
    except UserError as error:
        code = report_error(f"error: {error}")
    except KeyboardInterrupt:
        report_error("interrupted")
        code = 130
    except Exception as error:
        if isinstance(error, BrokenPipeError) and reader_has_left():
            code = 0
        elif text := environment_error(error):
            code = report_error(f"error: {text}")
        else:
            raise
    finally:
        flush_all()
    sys.exit(code)


def _answer(command: Command, run: Callable | None) -> None:
    """Print the requested help, or run the command."""
    arguments = sys.argv[1:]
    if not arguments:
        print(usage(command))
    elif {"-h", "--help"} & set(arguments):
        print(full(command))
    elif "--version" in arguments:
        print(f"dat-train {__version__}")
    else:
        check_environment()
        from dat_train.cli.composing import launch  # imports Hydra, which takes longer than printing help

        launch(command, run)


# Console scripts of pyproject.toml
train = partial(main, "train")
evaluate = partial(main, "eval")
predict = partial(main, "predict")
export = partial(main, "export")
average = partial(main, "average")
visualize = partial(main, "visualize")
report = partial(main, "report")
bench = partial(main, "bench")
check = partial(main, "check")

if __name__ == "__main__":
    main(sys.argv.pop(1))
