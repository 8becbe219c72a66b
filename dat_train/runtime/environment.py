"""Versions, device, host and git commit of a run, and the cores that it may use."""

import os
import platform
import shutil
import subprocess
import sys

import timm
import torch

from dat_train import __version__
from dat_train.errors import NO_COMPILER, UserError


def require_compiler(device: torch.device) -> None:
    """Check for the C++ compiler that torch.compile needs on a CPU. torch itself would report it minutes later.

    Raises:
        UserError: no compiler was found.
    """
    compiler = os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")
    if device.type == "cpu" and sys.platform != "win32" and not shutil.which(compiler.split()[0]):
        raise UserError(NO_COMPILER)


def environment(device: torch.device, processes: int) -> dict[str, str | int | None]:
    """Versions, machine and device, and the git commit of the working directory, see `git_commit`."""
    return {
        "git_commit": git_commit(),
        "dat_train": __version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),  # a subclass of str
        "timm": timm.__version__,
        "cuda": torch.version.cuda,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "processes": processes,
        "host": platform.node(),
        "platform": platform.platform(),
    }


def usable_cores() -> int:
    """Return the number of cores this process may use (taskset, Slurm, containers); all cores if this is unknown."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS and Windows
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def git_commit() -> str | None:
    """Commit checked out in the working directory, with a "+" if tracked files were changed.

    None outside of a repository and without git.
    """
    command = ["git", "describe", "--always", "--exclude=*", "--abbrev=40", "--dirty=+"]  # no tags: always the commit
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
