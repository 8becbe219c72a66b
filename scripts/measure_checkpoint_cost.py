"""What checkpoints cost a training run: how long they hold it up, and how much slower it is while one is written.

    python scripts/measure_checkpoint_cost.py --model dat_tiny

Steps are timed alone and with a checkpoint being written beside them, in turns.
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
from dat_train.training.optimizer import build_optimizer
from dat_train.training.run_folder import RunFolder
from dat_train.training.state import TrainState
from dat_train.training.writer import CheckpointWriter


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="dat_tiny", help="timm name (%(default)s)")
    parser.add_argument("--images", type=int, default=8, help="of a step (%(default)s)")
    parser.add_argument("--size", type=int, default=224, help="of an image, in pixels (%(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="checkpoints to write (%(default)s)")
    parser.add_argument("--folder", type=Path, help="where to write them (default: a temporary folder)")
    parser.add_argument("--every", type=float, default=60.0, help="seconds between two, for the result (%(default)s)")
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

    step()  # the optimizer's moments are there from now on
    writer.save(state.save(0, {}))
    writer.wait()
    plain, beside, pauses = [], [], []  # seconds; of `beside`, a list for every checkpoint
    for _ in range(arguments.rounds):
        plain += [step(), step()]
        before = writer.pause
        writer.save(state.save(0, {}))
        pauses.append(writer.pause - before)
        beside.append([step()])
        while writer.busy:
            beside[-1].append(step())
    report(arguments, folder.last.stat().st_size, plain, beside, pauses)


def report(
    arguments: argparse.Namespace, size: int, plain: list[float], beside: list[list[float]], pauses: list[float]
) -> None:
    usual = statistics.median(plain)
    lost = statistics.mean(max(0.0, sum(steps) - len(steps) * usual) for steps in beside)
    pause = statistics.mean(pauses)
    threads = torch.get_num_threads()
    print(f"{arguments.model}, checkpoints of {size / 1e6:.0f} MB, {arguments.rounds} times, {threads} threads")
    print(f"a step                 {usual:6.3f} s of {arguments.images} images")
    print(f"pause of a checkpoint  {pause:6.3f} s, for the copy; at most {max(pauses):.3f} s")
    print(
        f"lost to its writing    {lost:6.3f} s, over the {statistics.mean(map(sum, beside)):.2f} s of steps beside it"
    )
    print(f"cost                   {100 * (pause + lost) / arguments.every:6.2f} % at one every {arguments.every:g} s")


if __name__ == "__main__":
    main()
