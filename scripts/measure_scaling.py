"""Measurement of data-parallel speed, and of the overlap of gradient all-reduce with the backward pass.

    python scripts/measure_scaling.py                                   # one process
    torchrun --nproc_per_node=2 scripts/measure_scaling.py              # two

Each process computes a micro-batch without all-reduce, with all-reduce as in training, and the all-reduce alone.
"""

import argparse
import statistics
import time
import warnings

import timm
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch.nn.parallel import DistributedDataParallel

import dat_train.models  # noqa: F401  registers the names
from dat_train.runtime.processes import start_processes, stop_processes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="dat_tiny", help="timm name (%(default)s)")
    parser.add_argument("--images", type=int, default=4, help="images of a micro-batch (%(default)s)")
    parser.add_argument("--size", type=int, default=224, help="side of an image, pixels (%(default)s)")
    parser.add_argument("--steps", type=int, default=5, help="timed steps of each kind (%(default)s)")
    arguments = parser.parse_args()
    processes = start_processes()
    device, world_size = processes.device, processes.world_size
    model = timm.create_model(arguments.model, num_classes=1000, img_size=arguments.size).to(device).train()
    forward = model
    if world_size > 1:
        with warnings.catch_warnings(action="ignore", category=FutureWarning):  # as in training
            forward = DistributedDataParallel(
                model, broadcast_buffers=False, gradient_as_bucket_view=True, static_graph=True
            )
    images = torch.randn(arguments.images, 3, arguments.size, arguments.size, device=device)
    labels = torch.arange(arguments.images, device=device)
    gradients = torch.zeros(sum(p.numel() for p in model.parameters()), device=device)

    def step(module: torch.nn.Module) -> None:
        F.cross_entropy(module(images), labels).backward()

    def timed(action) -> float:
        """Median seconds until the slowest process has finished."""
        seconds = []
        for _ in range(arguments.steps):
            processes.total(0)  # waits for all processes
            begin = time.monotonic()
            action()
            if device.type == "cuda":
                torch.cuda.synchronize()
            processes.total(0)  # waits for all processes
            seconds.append(time.monotonic() - begin)
        return statistics.median(seconds)

    for _ in range(3):  # warm-up; DDP builds its buckets
        step(forward)
    apart = timed(lambda: step(model)) if world_size == 1 else timed(lambda: _without_sync(forward, step))
    together = timed(lambda: step(forward))
    if processes.is_main:
        speed = world_size * arguments.images / together
        print(
            f"{arguments.model}, {world_size} processes of {arguments.images} images, {torch.get_num_threads()} threads"
        )
        print(f"forward and backward            {apart:7.3f} s")
        print(f"with all-reduce                 {together:7.3f} s   {speed:.2f} images/s")
    if world_size > 1:
        alone = timed(lambda: dist.all_reduce(gradients))
        if processes.is_main:
            hidden = 1 - max(0.0, together - apart) / alone
            size = gradients.numel() * 4 / 1e6
            print(f"all-reduce of {size:.0f} MB alone    {alone:7.3f} s   {max(0.0, hidden):.0%} overlapped")
    stop_processes()


def _without_sync(forward: DistributedDataParallel, step) -> None:
    with forward.no_sync():
        step(forward)


if __name__ == "__main__":
    main()
