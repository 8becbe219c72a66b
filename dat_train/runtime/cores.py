"""Number of CPU cores that this process may use."""

import os


def usable_cores() -> int:
    """Return the number of cores this process may use (taskset, Slurm, containers); all cores if this is unknown."""
    if hasattr(os, "sched_getaffinity"):  # macOS and Windows have none
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
