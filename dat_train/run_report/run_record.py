"""What a run's folder says of the run: settings, curves, evaluation, and what went wrong."""

import csv
import json
import re
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import yaml

from dat_train.errors import UserError
from dat_train.run_report.curves import read_metrics, read_offsets

TAIL = 1 << 16  # bytes of metrics.jsonl in which the last step surely is


@dataclass(frozen=True)
class RunRecord:
    """A run's folder, read when asked.

    Attributes:
        folder: with config.yaml; what else there is depends on how far the run got, and whether it was evaluated.
        name: to show.
    """

    folder: Path
    name: str

    @cached_property
    def config(self) -> dict:
        """The resolved settings, nested."""
        return yaml.safe_load((self.folder / "config.yaml").read_text(encoding="utf-8")) or {}

    @cached_property
    def summary(self) -> dict:
        """summary.json; {} before the run's end."""
        return _json(self.folder / "summary.json")

    @cached_property
    def steps(self) -> np.ndarray:
        """(N, 3) epoch, loss, learning rate of every step."""
        return self._metrics[0]

    @cached_property
    def validations(self) -> list[dict]:
        return self._metrics[1]

    @cached_property
    def offsets(self) -> list[dict]:
        """Rows of the steps whose offsets were measured."""
        path = self.folder / "metrics.jsonl"
        return read_offsets(path) if path.exists() else []

    @cached_property
    def throughput(self) -> np.ndarray:
        """(N, 2) epoch, images a second."""
        rows = [row for row in self._timing if "images_per_second" in row]
        if not rows or not len(self.steps):
            return np.empty((0, 2))
        last = np.array([row["step"] for row in rows]).clip(max=len(self.steps))
        return np.stack([self.steps[last - 1, 0], [row["images_per_second"] for row in rows]], axis=1)

    @cached_property
    def starts(self) -> list[dict]:
        """Every process that worked on the run: {"started", "step", "host", "device", "processes", "torch"}."""
        return [row for row in self._timing if "started" in row]

    @cached_property
    def last_step(self) -> dict:
        """The last step's row of metrics.jsonl, with the counts of skipped steps and unreadable images; {}: none."""
        path = self.folder / "metrics.jsonl"
        if not path.exists():
            return {}
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - TAIL))
            lines = file.read().splitlines(keepends=True)
        for line in reversed(lines):
            if b'"loss"' in line and line.startswith(b"{") and line.endswith(b"\n"):
                return json.loads(line)
        return {}

    @cached_property
    def warnings(self) -> list[tuple[str, int, str]]:
        """(text, how often, time of the first) of the log's warnings; texts that differ in numbers alone are one."""
        path = self.folder / "log.txt"
        if not path.exists():
            return []
        first: dict[str, tuple[str, str]] = {}
        counts: Counter[str] = Counter()
        with path.open(encoding="utf-8", errors="replace") as file:
            for line in file:
                found = re.match(r"(\S+ \S+)  warning: (.*)", line)
                if found:
                    kind = re.sub(r"\d[\d,.]*", "N", found[2])
                    counts[kind] += 1
                    first.setdefault(kind, (found[2], found[1]))
        return [(first[kind][0], count, first[kind][1]) for kind, count in counts.most_common()]

    @cached_property
    def evaluation(self) -> dict:
        """eval/result.json; {} where dat-eval was not run."""
        return _json(self.folder / "eval" / "result.json")

    @cached_property
    def classes(self) -> list[dict]:
        """Rows of eval/per_class.csv: index, name, images, correct, top1 (None without an image)."""
        rows = _table(self.folder / "eval" / "per_class.csv")
        numbers = [{key: int(row[key]) for key in ("index", "images", "correct")} for row in rows]
        return [
            number | {"name": row["name"], "top1": float(row["top1"]) if row["top1"] else None}
            for number, row in zip(numbers, rows, strict=True)
        ]

    @cached_property
    def confused(self) -> list[tuple[str, str, int]]:
        """(true, predicted, images) of eval/confused.csv, most first."""
        return [
            (row["true"], row["predicted"], int(row["count"])) for row in _table(self.folder / "eval" / "confused.csv")
        ]

    @cached_property
    def wrong(self) -> list[dict]:
        """Rows of eval/wrong.csv, the surest first: path, true, predicted, confidence (percent)."""
        rows = _table(self.folder / "eval" / "wrong.csv")
        return [row | {"confidence": float(row["confidence"])} for row in rows]

    @cached_property
    def _metrics(self) -> tuple[np.ndarray, list[dict]]:
        path = self.folder / "metrics.jsonl"
        return read_metrics(path) if path.exists() else (np.empty((0, 3)), [])

    @cached_property
    def _timing(self) -> list[dict]:
        path = self.folder / "timing.jsonl"
        if not path.exists():
            return []
        lines = path.read_bytes().splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.endswith(b"\n")]


def open_runs(folders: list[str]) -> list[RunRecord]:
    """The runs in these folders, each with a name of its own.

    Raises:
        UserError: a folder that is no run's.
    """
    paths = [Path(folder) for folder in folders]
    for path in paths:
        if not (path / "config.yaml").is_file():
            what = "is no run's folder: it has no config.yaml" if path.is_dir() else "is not there"
            raise UserError(f"{path} {what}; name folders as runs/digits")
    names = [path.resolve().name for path in paths]
    return [
        RunRecord(path, name if names.count(name) == 1 else str(path)) for path, name in zip(paths, names, strict=True)
    ]


def _json(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def _table(path: Path) -> list[dict]:
    """Rows of a CSV file; none when it is not there."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        return list(csv.DictReader(file))
