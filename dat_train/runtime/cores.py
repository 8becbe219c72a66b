"""Number of CPU cores that this process may use."""

import os


def usable_cores() -> int:
    """Return the cores this process may run on (taskset, Slurm, containers); all where the system cannot tell."""
    if hasattr(os, "sched_getaffinity"):  # macOS and Windows have none
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
