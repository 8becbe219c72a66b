"""Errors of a command as one line on standard error."""

import contextlib
import os
import re
import sys

TORCHRUN = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")  # variables that torchrun sets together
FIXABLE = 2  # exit code after an error the user can fix


def report_error(message: str) -> int:
    """Print one line, in the main process only; return the exit code FIXABLE."""
    started_by_torchrun = all(name in os.environ for name in TORCHRUN)
    if not started_by_torchrun or os.environ["RANK"] == "0":
        with contextlib.suppress(OSError):
            print(re.sub(r"\s*\n\s*", " ", message.strip()), file=sys.stderr, flush=True)
    return FIXABLE
