"""Real dat-train processes, forked from a server with all imports: one second to start instead of five."""

import multiprocessing
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

import torch
from training.small_run import warm_context

from dat_train.cli.main import main

SETTINGS = [  # 60 steps in 10 epochs of a DAT of 30 thousand parameters, all kinds of randomness in it
    *(
        "model=dat_nano",
        "model.args.dims=[8,16,16,24]",
        "model.args.depths=[1,1,2,1]",
        "model.args.num_heads=[1,2,2,3]",
    ),
    *("model.args.groups=[1,1,2,1]", "model.args.proj_drop_rate=0.1", "model.args.attn_drop_rate=0.1"),
    *("data=fake", "data.fake_images=48", "data.fake_classes=4", "data.val_fraction=0.4", "data.workers=1"),
    *("batch_size=8", "micro_batch_size=4", "epochs=10", "optim.lr=2e-3", "schedule.warmup_epochs=1", "ema.decay=0.9"),
    *("eval.batch_size=8", "checkpoint.every_minutes=0", "log.every=5", "name=run"),
]
FILES = ("checkpoints/last.pt", "checkpoints/best.pt", "metrics.jsonl")


class RealRun:
    """One process of `dat-train SETTINGS...`, or another `command`, in `folder`; what it prints is in `output`.

    Args:
        sabotage: function called in the process before the command.
        environment: further variables, as torchrun sets them.
    """

    settings = SETTINGS
    command = "train"

    def __init__(
        self, folder: Path, *settings: str, sabotage: Callable[[], None] | None = None, **environment: str
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.run = folder / "runs" / "run"
        self.path = folder / f"output-{time.monotonic_ns()}.txt"
        self.path.touch()
        line = [self.command, *self.settings, *settings]
        arguments = (line, str(folder), (str(self.path),) * 2, environment, sabotage)
        self.process = warm_context().Process(target=run_forked, args=arguments)
        self.process.start()

    @property
    def output(self) -> str:
        return self.path.read_text()

    def send(self, number: signal.Signals) -> None:
        os.kill(self.process.pid, number)

    def wait(self, seconds: float = 120) -> int:
        """The exit code, -N after signal N."""
        self.process.join(seconds)
        if self.process.is_alive():
            self.process.kill()
            raise AssertionError(f"still running after {seconds} s:\n{self.output}")
        return self.process.exitcode

    def wait_for(self, condition: Callable[[], bool], seconds: float = 60) -> None:
        """Wait until `condition()`; the process must not end before."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert self.process.is_alive() and time.monotonic() < deadline, self.output
            time.sleep(0.002)

    def wait_for_step(self, step: int) -> None:
        """Wait until the row of `step` is in metrics.jsonl."""
        self.wait_for(lambda: steps_done(self.run) >= step)


def run_forked(
    line: list[str],
    folder: str,
    outputs: tuple[str, str],
    environment: dict[str, str],
    sabotage: Callable[[], None] | None = None,
) -> None:
    """Run a command in this process, which was forked from the server.

    Args:
        line: name of the command without dat-, and its arguments.
        outputs: files for what it prints and for its errors.
    """
    os.setsid()
    os.chdir(folder)
    os.environ |= environment
    for number, path in enumerate(outputs, 1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    torch.set_num_threads(1)
    multiprocessing.set_start_method("fork", force=True)  # the default of a process that is not a test's
    sys.argv = [f"dat-{line[0]}", *line[1:]]
    if sabotage:
        sabotage()
    main(line[0])


def ranks(
    folder: Path,
    world_size: int,
    *settings: str,
    sabotage: dict[int, Callable[[], None]] | None = None,
    extra: dict[int, list[str]] | None = None,
    kind: type[RealRun] = RealRun,
) -> list[RealRun]:
    """Processes of one run with the environment of torchrun.

    Args:
        sabotage: by rank; extra: further settings, by rank.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    group = {"WORLD_SIZE": str(world_size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return [
        kind(
            folder,
            *settings,
            *(extra or {}).get(rank, ()),
            sabotage=(sabotage or {}).get(rank),
            RANK=str(rank),
            LOCAL_RANK=str(rank),
            **group,
        )
        for rank in range(world_size)
    ]


@contextmanager
def ended(*runs: RealRun):
    """End all `runs` at the end of the block."""
    try:
        yield
    finally:
        for run in runs:
            if run.process.is_alive():
                run.process.kill()
                run.process.join()


def steps_done(run: Path) -> int:
    """Steps whose rows are in metrics.jsonl."""
    try:
        return (run / "metrics.jsonl").read_bytes().count(b'"lr"')
    except FileNotFoundError:
        return 0


def content(run: Path) -> dict[str, bytes]:
    return {name: (run / name).read_bytes() for name in FILES}
