"""What a run leaves to read: metrics.jsonl, timing.jsonl, other loggers, and lines for the terminal.

metrics.jsonl is a function of the configuration alone, without times in it, so that a resumed run's file has the bytes
of an uninterrupted one. What depends on the machine is in timing.jsonl.
"""

import json
import math
import os
import platform
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from dat_train.runtime.processes import Processes
from dat_train.runtime.terminal import Terminal, duration
from dat_train.training.loggers import Logger
from dat_train.training.plan import RunPlan
from dat_train.training.run_folder import RunFolder


class RunLog:
    """Collects the numbers of steps on the device and takes them to the host, files and terminal now and then.

    In every process, because all count skipped steps alike; only the main one writes.

    Args:
        images_per_step: the global batch size, for the throughput.
        counters: of the `TrainState`; "skipped" and "in_a_row" are counted here.
    """

    def __init__(
        self,
        folder: RunFolder,
        plan: RunPlan,
        processes: Processes,
        terminal: Terminal,
        loggers: Sequence[Logger] = (),
    ) -> None:
        self.folder = folder
        self.plan = plan
        self.processes = processes
        self.terminal = terminal
        self.loggers = loggers if processes.is_main else ()
        self._waiting: list[tuple[dict, Tensor]] = []  # rows whose numbers are still on the device
        self._also: dict[int, dict[str, Tensor]] = {}  # further numbers of some steps, on the device too
        self._since = self._start = time.monotonic()
        self._first_step: int | None = None
        self._images_per_second = math.nan

    def start(self, step: int) -> None:
        """Note where and on what this process begins; after metrics.jsonl was cut to what was there then."""
        self._metrics, self._timing = _RowFile(self.folder.metrics), _RowFile(self.folder.timing)
        self._first_step = step
        self._start = time.monotonic()
        self._skip_time()
        self._write(
            self._timing,
            {
                "elapsed": 0.0,
                "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
                "step": step,
                "host": platform.node(),
                "device": _device_name(self.processes.device),
                "processes": self.processes.world_size,
                "torch": torch.__version__,
            },
        )

    def step(self, step: int, lr: float, unreadable: int, numbers: Tensor) -> None:
        """Remember a step; `numbers` (4,) on the device: loss, gradient norm, 1 if it was skipped, 1 if it failed."""
        row = {"step": step, "epoch": self._epoch(step), "lr": lr, "unreadable": unreadable}
        self._waiting.append((row, numbers))
        self.terminal.progress(step, self.plan.steps)

    def also(self, numbers: dict[str, Tensor]) -> None:
        """Add numbers, () on the device, to the row of the step remembered last."""
        self._also[self._waiting[-1][0]["step"]] = numbers

    def flush(self, counters: dict) -> None:
        """Take the waiting numbers from the device in one transfer, count skipped and failed steps, write rows."""
        if not self._waiting:
            return
        values = torch.stack([numbers for _, numbers in self._waiting]).tolist()  # the wait for the device
        rows = []
        for (row, _), (loss, grad_norm, skipped, failed) in zip(self._waiting, values, strict=True):
            counters["skipped"] += int(skipped)
            counters["in_a_row"] = counters["in_a_row"] + int(failed) if skipped else 0
            rows.append(
                {"step": row["step"], "epoch": row["epoch"], "loss": _finite(loss), "lr": row["lr"]}
                | {"grad_norm": _finite(grad_norm), "skipped": counters["skipped"], "unreadable": row["unreadable"]}
                | self._further(row["step"])
            )
        self._waiting.clear()
        self._write(self._metrics, *rows)
        for logger in self.loggers:
            for row in rows:
                logger.log_step(row)
        self._measure(rows)
        self._skip_time()

    def _further(self, step: int) -> dict[str, float | None]:
        """What `also` remembered of a step."""
        numbers = self._also.pop(step, None)
        if not numbers:
            return {}
        values = torch.stack(list(numbers.values())).tolist()
        return {name: _finite(round(value, 6)) for name, value in zip(numbers, values, strict=True)}

    def validation(self, row: dict, best: bool) -> None:
        """Write a validation's row and line; its time does not count as training."""
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
            logger.log_validation(row)
        loss = "not finite" if row["val_loss"] is None else f"{row['val_loss']:.4f}"
        ema = f"   EMA {row['ema_val_top1']:.2f} %" if "ema_val_top1" in row else ""
        self.terminal.say(
            f"epoch {row['epoch']:g}   validation: top-1 {row['val_top1']:.2f} %   top-5 {row['val_top5']:.2f} %"
            f"   loss {loss}{ema}{'   * best' if best else ''}"
        )
        self._skip_time()

    def validation_row(self, step: int, values: dict) -> dict:
        return {"step": step, "epoch": self._epoch(step)} | {name: _finite(value) for name, value in values.items()}

    def sync(self) -> None:
        """Bring the rows to the disk, before a checkpoint says they are there.

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
        """Throughput since the last flush, and the line (or the bar's text) that says how training goes."""
        now = time.monotonic()
        seconds, step = now - self._since, rows[-1]["step"]
        self._images_per_second = len(rows) * self.plan.batch_size / max(seconds, 1e-9)
        row = {"elapsed": round(now - self._start, 4), "step": step, "steps": len(rows), "seconds": round(seconds, 4)}
        row |= {"images_per_second": round(self._images_per_second, 2), "memory_gb": _memory(self.processes.device)}
        self._write(self._timing, row)
        losses = [row["loss"] for row in rows if row["loss"] is not None]
        loss = f"{sum(losses) / len(losses):.4f}" if losses else "not finite"
        left = (now - self._start) / max(1, step - self._first_step) * (self.plan.steps - step)
        text = f"loss {loss}   lr {rows[-1]['lr']:.2e}   {self._images_per_second:,.0f} images/s   ETA {duration(left)}"
        if rows[-1]["skipped"]:
            text += f"   {rows[-1]['skipped']} skipped"
        if self.terminal.live:
            self.terminal.progress(step, self.plan.steps, text)
        else:
            self.terminal.say(f"step {step:,}/{self.plan.steps:,}   epoch {self._epoch(step):.2f}   {text}")

    def _skip_time(self) -> None:
        """Begin to measure the throughput from now on."""
        self._since = time.monotonic()

    def _epoch(self, step: int) -> float:
        return round(step / self.plan.steps_per_epoch, 4)

    def _write(self, file: "_RowFile", *rows: dict) -> None:
        if self.processes.is_main:
            file.append(rows)


class _RowFile:
    """A .jsonl file that is appended to; what a full disk refuses is kept and written with the next rows."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._size = (
            path.read_bytes().rfind(b"\n") + 1 if path.exists() else 0
        )  # after it, half a row of a killed process
        self._unwritten = b""

    def append(self, rows: Sequence[dict]) -> None:
        self._unwritten += b"".join(json.dumps(row, allow_nan=False).encode() + b"\n" for row in rows)
        try:
            self._flush()
        except OSError:
            return  # `sync` says so when it matters

    def sync(self) -> None:
        self._flush(durable=True)

    def _flush(self, durable: bool = False) -> None:
        with self.path.open("r+b" if self.path.exists() else "w+b") as file:
            file.seek(self._size)
            file.truncate()  # half a row that was written when the disk was full
            file.write(self._unwritten)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        self._size += len(self._unwritten)
        self._unwritten = b""


def _finite(value: float) -> float | None:
    """JSON has no NaN; a step that was skipped for one has none."""
    return value if math.isfinite(value) else None


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"{device.type} ({platform.machine()})"


def _memory(device: torch.device) -> float | None:
    """Peak memory on the accelerator so far, in GB (10^9 bytes); None on the CPU."""
    return round(torch.cuda.max_memory_allocated(device) / 1e9, 3) if device.type == "cuda" else None
