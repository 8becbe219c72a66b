"""Running the real commands in processes of their own, as a user does."""

import os
import subprocess
import sys
from pathlib import Path

MODULES = {"dat-train": "dat_train.commands.train", "dat-eval": "dat_train.commands.evaluate"}


def run(
    command: str, *arguments: str, cwd: Path, timeout: float = 120, **environment: str
) -> subprocess.CompletedProcess:
    """Run `command` with `arguments` in folder `cwd`; never raises for its exit code."""
    return subprocess.run(
        [sys.executable, "-m", MODULES[command], *arguments],
        cwd=cwd,
        env=os.environ | {"OMP_NUM_THREADS": "1", "WANDB_MODE": "offline"} | environment,
        capture_output=True,
        text=True,
        timeout=timeout,
    )
