"""Timing of interleaved tasks, so that other load of the machine affects all of them equally."""

import time
from collections.abc import Callable

import torch


def interleaved(
    tasks: dict[str, Callable[[], object]], *, repeats: int, warmup: int, device: torch.device
) -> dict[str, list[float]]:
    """Seconds of each task, `repeats` times, interleaved; every second round is in reverse order.

    The first `warmup` rounds are not reported: they allocate, choose algorithms and compile.
    """
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    for number in range(warmup + repeats):
        for name in list(tasks)[:: 1 if number % 2 else -1]:
            taken = timed(tasks[name], device)
            if number >= warmup:
                seconds[name].append(taken)
    return seconds


def timed(task: Callable[[], object], device: torch.device) -> float:
    """Seconds of one call: measured with CUDA events on CUDA, else with the wall clock."""
    if device.type == "cuda":
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize(device)
        begin.record()
        task()
        end.record()
        torch.cuda.synchronize(device)
        return begin.elapsed_time(end) / 1000
    begin = time.perf_counter()
    task()
    if device.type == "mps":
        torch.mps.synchronize()
    return time.perf_counter() - begin
