"""Content of a run folder: settings, metrics, evaluation, warnings. For runs of any task."""

import csv
import json
import re
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import yaml

from dat_train.atomic import read_json
from dat_train.errors import UserError
from dat_train.run_report.curves import read_metrics, read_offsets
from dat_train.run_report.metrics import score_name

TAIL = 1 << 16  # bytes at the end of metrics.jsonl that contain the last step


@dataclass(frozen=True)
class RunRecord:
    """A run folder; files are read on first access. Missing and damaged files count as empty.

    Attributes:
        folder: contains config.yaml. Other files depend on the progress of the run and on evaluations.
        name: name to show.
    """

    folder: Path
    name: str

    @cached_property
    def config(self) -> dict:
        """Settings of the run, nested."""
        return yaml.safe_load((self.folder / "config.yaml").read_text(encoding="utf-8")) or {}

    @cached_property
    def summary(self) -> dict:
        """summary.json; {} before the end of the run."""
        return _json(self.folder / "summary.json")

    @cached_property
    def steps(self) -> np.ndarray:
        """(N, 3) epoch, loss, learning rate of every step."""
        return self._metrics[0]

    @cached_property
    def validations(self) -> list[dict]:
        """Rows of validations: "val_NAME" and, with averaged weights, "ema_val_NAME"."""
        return self._metrics[1]

    @cached_property
    def score(self) -> str | None:
        """Name of the score; None before the first validation."""
        return score_name(self.summary, self.validations)

    @cached_property
    def offsets(self) -> list[dict]:
        """Rows of the steps with statistics of offsets."""
        path = self.folder / "metrics.jsonl"
        return read_offsets(path) if path.exists() else []

    @cached_property
    def throughput(self) -> np.ndarray:
        """(N, 2) epoch, images per second."""
        rows = [row for row in self._timing if "images_per_second" in row]
        if not rows or not len(self.steps):
            return np.empty((0, 2))
        last = np.array([row["step"] for row in rows]).clip(max=len(self.steps))
        return np.stack([self.steps[last - 1, 0], [row["images_per_second"] for row in rows]], axis=1)

    @cached_property
    def starts(self) -> list[dict]:
        """Starts of the run: {"started", "step", "host", "device", "processes", "torch"}."""
        return [row for row in self._timing if "started" in row]

    @cached_property
    def last_step(self) -> dict:
        """Row of the last step, with the counts of skipped steps and unreadable images; {} without steps."""
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
        """(text, count, time of the first) of the warnings in the log. Texts that differ only in numbers are merged."""
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
        """eval/result.json; {} without an evaluation."""
        return _json(self.folder / "eval" / "result.json")

    @cached_property
    def classes(self) -> list[dict]:
        """Rows of eval/per_class.csv: "name" as text, other columns as numbers, None for an empty cell."""
        rows = _table(self.folder / "eval" / "per_class.csv")
        return [{key: text if key == "name" else _number(text) for key, text in row.items()} for row in rows]

    @cached_property
    def confused(self) -> list[tuple[str, str, int]]:
        """(true, predicted, images) of eval/confused.csv, most frequent first."""
        return [
            (row["true"], row["predicted"], int(row["count"])) for row in _table(self.folder / "eval" / "confused.csv")
        ]

    @cached_property
    def wrong(self) -> list[dict]:
        """Rows of eval/wrong.csv, most confident first: path, true, predicted, confidence (percent)."""
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
    """Open run folders, with a unique name for each.

    Raises:
        UserError: a folder without config.yaml.
    """
    paths = [Path(folder) for folder in folders]
    for path in paths:
        if not (path / "config.yaml").is_file():
            problem = "is not a run folder (it has no config.yaml)" if path.is_dir() else "does not exist"
            raise UserError(f"{path} {problem}; name run folders, for example runs/digits")
    names = [path.resolve().name for path in paths]
    return [
        RunRecord(path, name if names.count(name) == 1 else str(path)) for path, name in zip(paths, names, strict=True)
    ]


def _json(path: Path) -> dict:
    content = read_json(path)
    return content if isinstance(content, dict) else {}


def _number(text: str | None) -> float | int | None:
    try:
        return int(text)
    except (TypeError, ValueError):
        return float(text) if text else None


def _table(path: Path) -> list[dict]:
    """Rows of a CSV file; empty if it does not exist."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        return list(csv.DictReader(file))
