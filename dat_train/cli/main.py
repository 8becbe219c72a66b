"""Entry points of the commands: help, errors in one line, exit codes."""

import sys
from functools import partial
from typing import NoReturn

from dat_train import __version__
from dat_train.cli import help as helping
from dat_train.cli.exits import stop
from dat_train.cli.table import COMMANDS, Command
from dat_train.errors import UserError


def main(name: str) -> NoReturn:
    """Run the command dat-`name` with the arguments in sys.argv, and exit."""
    run_command(COMMANDS[name])


def run_command(command: Command, run=None) -> NoReturn:
    """Compose the settings of `command` from conf/NAME.yaml and the command line, run it, exit.

    Exit codes: 0; 1 after an unexpected error, with its traceback; 2 after an error the user can fix, in one line;
    130 after an interrupt; and any code the command itself exits with.

    Args:
        run: function of (config, request) to call instead of the command's own.
    """
    arguments = sys.argv[1:]
    if not arguments:
        print(helping.usage(command))
    elif {"-h", "--help"} & set(arguments):
        print(helping.full(command))
    elif "--version" in arguments:
        print(f"dat-train {__version__}")
    else:
        from dat_train.cli.composing import launch  # imports Hydra, which takes longer than printing help

        try:
            launch(command, run)
        except UserError as error:
            stop(f"error: {error}", 2)
        except KeyboardInterrupt:
            stop("interrupted", 130)
    sys.exit(0)


# Console scripts of pyproject.toml
train = partial(main, "train")
evaluate = partial(main, "eval")
predict = partial(main, "predict")
export = partial(main, "export")
average = partial(main, "average")
visualize = partial(main, "visualize")
report = partial(main, "report")
bench = partial(main, "bench")

if __name__ == "__main__":
    main(sys.argv.pop(1))
