"""Log of a run: metrics.jsonl, timing.jsonl, other loggers, and lines for the terminal.

metrics.jsonl depends on configuration and data only and contains no times, so that the file of a resumed run has the
same bytes as that of an uninterrupted one. Values that depend on the machine are in timing.jsonl.
"""

import json
import math
import os
import platform
import time
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from dat_train.runtime.terminal import eta
from dat_train.training.loggers.logger import Logger
from dat_train.training.plan import RunPlan
from dat_train.training.run_context import RunContext
from dat_train.training.task import Evaluation, Score


class RunLog:
    """Log that collects numbers of steps on the device and transfers them to host, files and terminal at intervals.

    Used in every process, because all of them count skipped steps; only the main process writes.
    """

    def __init__(self, context: RunContext, plan: RunPlan, loggers: Sequence[Logger] = ()) -> None:
        self.folder, self.processes, self.terminal = context.folder, context.processes, context.terminal
        self.plan = plan
        self.loggers = loggers if context.processes.is_main else ()
        # rows, names of their further numbers, and numbers on the device
        self._waiting: list[tuple[dict, tuple[str, ...], Tensor]] = []

    def start(self, step: int) -> None:
        """Record the first step and the device of this process, after metrics.jsonl was truncated to that step."""
        self._metrics, self._timing = _RowFile(self.folder.metrics), _RowFile(self.folder.timing)
        self._first_step = step
        device = self.processes.device
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{device.type} ({platform.machine()})"
        self._start = self._since = time.monotonic()
        self._write(
            self._timing,
            {
                "elapsed": 0.0,
                "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
                "step": step,
                "host": platform.node(),
                "device": name,
                "processes": self.processes.world_size,
                "torch": torch.__version__,
            },
        )

    def step(self, step: int, lr: float, unreadable: int, numbers: Tensor, further: Mapping[str, Tensor] = {}) -> None:
        """Add a step.

        Args:
            numbers: (4,) on the device: loss, gradient norm, 1 if the step was skipped, 1 if it failed.
            further: numbers () on the device for the end of the row, rounded to 6 decimals there.
        """
        row = {"step": step, "epoch": self._epoch(step), "lr": lr, "unreadable": unreadable}
        if further:
            numbers = torch.cat([numbers, torch.stack(list(further.values())).to(numbers.dtype)])
        self._waiting.append((row, tuple(further), numbers))
        self.terminal.progress(step, self.plan.steps)

    def flush(self, counters: dict) -> None:
        """Transfer the waiting numbers from the device at once, count skipped and failed steps, and write rows.

        Args:
            counters: those of the `TrainState`; "skipped" and "consecutive_failures" are updated.
        """
        if not self._waiting:
            return
        values = iter(torch.cat([numbers for _, _, numbers in self._waiting]).tolist())  # waits for the device
        rows = []
        for row, names, _ in self._waiting:
            loss, grad_norm, skipped, failed = islice(values, 4)
            counters["skipped"] += int(skipped)
            counters["consecutive_failures"] = counters["consecutive_failures"] + int(failed) if skipped else 0
            rows.append(
                {"step": row["step"], "epoch": row["epoch"], "loss": _finite(loss), "lr": row["lr"]}
                | {"grad_norm": _finite(grad_norm), "skipped": counters["skipped"], "unreadable": row["unreadable"]}
                | {
                    name: _finite(round(value, 6))
                    for name, value in zip(names, islice(values, len(names)), strict=True)
                }
            )
        self._waiting.clear()
        self._write(self._metrics, *rows)
        for logger in self.loggers:
            for row in rows:
                logger.log("train", row)
        self._measure(rows)
        self._since = time.monotonic()

    def validation(
        self, step: int, evaluation: Evaluation, *, averaged: Evaluation | None, score: Score, is_best: bool
    ) -> None:
        """Write the row and the line of a validation. Its time does not count as training.

        Args:
            averaged: evaluation of the averaged weights, if the run has any.
        """
        row = {"step": step, "epoch": self._epoch(step)} | _prefixed("val_", evaluation)
        if averaged:
            row |= _prefixed("ema_val_", averaged)
        self._write(self._metrics, row)
        now = time.monotonic()
        self._write(
            self._timing,
            {
                "elapsed": round(now - self._start, 4),
                "step": row["step"],
                "validation_seconds": round(now - self._since, 4),
            },
        )
        for logger in self.loggers:
            logger.log("validation", row)
        ema = f"   EMA {score.text(averaged.numbers[score.name])}" if averaged else ""
        best = "   * best" if is_best else ""
        self.terminal.say(f"epoch {row['epoch']:g}   validation: {evaluation.text}{ema}{best}")
        self._since = time.monotonic()

    def sync(self) -> None:
        """Flush the rows to the disk before a checkpoint that relies on them is written.

        Raises:
            OSError: they could not be written.
        """
        if self.processes.is_main:
            self._metrics.sync()
        for logger in self.loggers:
            logger.sync()

    def close(self) -> None:
        for logger in self.loggers:
            logger.close()
        self.terminal.close()

    def _measure(self, rows: list[dict]) -> None:
        """Measure the throughput since the last flush, and write the progress line or the text of the progress bar."""
        now = time.monotonic()
        seconds, step = now - self._since, rows[-1]["step"]
        images_per_second = len(rows) * self.plan.batch_size / max(seconds, 1e-9)
        row = {"elapsed": round(now - self._start, 4), "step": step, "steps": len(rows), "seconds": round(seconds, 4)}
        row |= {"images_per_second": round(images_per_second, 2), "memory_gb": _memory(self.processes.device)}
        self._write(self._timing, row)
        losses = [row["loss"] for row in rows if row["loss"] is not None]
        loss = f"{sum(losses) / len(losses):.4f}" if losses else "not finite"
        left = eta(now - self._start, step - self._first_step, self.plan.steps - self._first_step)
        text = f"loss {loss}   lr {rows[-1]['lr']:.2e}   {images_per_second:,.0f} images/s   {left}"
        if rows[-1]["skipped"]:
            text += f"   {rows[-1]['skipped']} skipped"
        if self.terminal.live:
            self.terminal.progress(step, self.plan.steps, text)
        else:
            self.terminal.say(f"step {step:,}/{self.plan.steps:,}   epoch {self._epoch(step):.2f}   {text}")

    def _epoch(self, step: int) -> float:
        return round(step / self.plan.steps_per_epoch, 4)

    def _write(self, file: "_RowFile", *rows: dict) -> None:
        if self.processes.is_main:
            file.append(rows)


class _RowFile:
    """A .jsonl file to append to. Rows that cannot be written (full disk) are kept and written with the next rows."""

    def __init__(self, path: Path) -> None:
        self.path = path
        # an incomplete row of a killed process may follow
        self._size = path.read_bytes().rfind(b"\n") + 1 if path.exists() else 0
        self._unwritten = b""

    def append(self, rows: Sequence[dict]) -> None:
        self._unwritten += b"".join(json.dumps(row, allow_nan=False).encode() + b"\n" for row in rows)
        try:
            self._flush()
        except OSError:
            return  # `sync` reports the error when it matters

    def sync(self) -> None:
        self._flush(durable=True)

    def _flush(self, durable: bool = False) -> None:
        with self.path.open("r+b" if self.path.exists() else "w+b") as file:
            file.seek(self._size)
            file.truncate()  # an incomplete row, written when the disk was full
            file.write(self._unwritten)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        self._size += len(self._unwritten)
        self._unwritten = b""


def _prefixed(prefix: str, evaluation: Evaluation) -> dict[str, float | None]:
    return {f"{prefix}{name}": _finite(value) for name, value in evaluation.numbers.items()}


def _finite(value: float) -> float | None:
    """Replace non-finite numbers by None, because JSON has no NaN."""
    return value if math.isfinite(value) else None


def _memory(device: torch.device) -> float | None:
    """Peak memory on the accelerator so far, in GB (10^9 bytes). None on a CPU."""
    return round(torch.cuda.max_memory_allocated(device) / 1e9, 3) if device.type == "cuda" else None
