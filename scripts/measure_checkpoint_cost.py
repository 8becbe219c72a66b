"""Measurement of the cost of checkpoints: pause of the training, and slowdown while a checkpoint is written.

    python scripts/measure_checkpoint_cost.py --model dat_tiny

Steps without and during the writing of a checkpoint are timed alternately.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import timm
import torch
import torch.nn.functional as F

import dat_train.models  # noqa: F401  registers the names
from dat_train.training.checkpoint_writer import CheckpointWriter
from dat_train.training.optimizer import build_optimizer
from dat_train.training.run_folder import RunFolder
from dat_train.training.state import TrainState


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="dat_tiny", help="timm name (%(default)s)")
    parser.add_argument("--images", type=int, default=8, help="images of a step (%(default)s)")
    parser.add_argument("--size", type=int, default=224, help="side of an image, pixels (%(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="checkpoints to write (%(default)s)")
    parser.add_argument("--folder", type=Path, help="folder for the checkpoints (default: temporary)")
    parser.add_argument("--every", type=float, default=60.0, help="seconds between two checkpoints (%(default)s)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        measure(arguments, RunFolder(Path(folder)))


def measure(arguments: argparse.Namespace, folder: RunFolder) -> None:
    model = timm.create_model(arguments.model, num_classes=1000, img_size=arguments.size).train()
    state = TrainState(model, build_optimizer(model, lr=1e-4, weight_decay=0.05), torch.amp.GradScaler(enabled=False))
    images = torch.randn(arguments.images, 3, arguments.size, arguments.size)
    labels = torch.arange(arguments.images)
    folder.create()
    writer = CheckpointWriter(folder, every_minutes=1, keep=0, step_on_disk=None, before=lambda: None, warn=print)

    def step() -> float:
        begin = time.monotonic()
        F.cross_entropy(model(images), labels).backward()
        state.optimizer.step()
        state.optimizer.zero_grad()
        return time.monotonic() - begin

    step()  # allocates the moments of the optimizer
    writer.save(state.state_dict(0))
    writer.wait()
    plain, during, pauses = [], [], []  # seconds; `during` has a list for each checkpoint
    for _ in range(arguments.rounds):
        plain += [step(), step()]
        begin = time.monotonic()
        writer.save(state.state_dict(0))
        pauses.append(time.monotonic() - begin)
        during.append([step()])
        while writer.busy:
            during[-1].append(step())
    report(arguments, folder.last.stat().st_size, plain, during, pauses)


def report(
    arguments: argparse.Namespace, size: int, plain: list[float], during: list[list[float]], pauses: list[float]
) -> None:
    usual = statistics.median(plain)
    lost = statistics.mean(max(0.0, sum(steps) - len(steps) * usual) for steps in during)
    pause = statistics.mean(pauses)
    threads = torch.get_num_threads()
    print(f"{arguments.model}, checkpoints of {size / 1e6:.0f} MB, {arguments.rounds} times, {threads} threads")
    print(f"a step                 {usual:6.3f} s of {arguments.images} images")
    print(f"pause of a checkpoint  {pause:6.3f} s, for the copy; maximum {max(pauses):.3f} s")
    print(f"lost while writing     {lost:6.3f} s, in {statistics.mean(map(sum, during)):.2f} s of steps")
    cost = 100 * (pause + lost) / arguments.every
    print(f"cost                   {cost:6.2f} % with one checkpoint every {arguments.every:g} s")


if __name__ == "__main__":
    main()
