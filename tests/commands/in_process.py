"""dat-train in this process, without the seconds that a separate process needs for imports."""

import json
from pathlib import Path
from unittest import mock

from commands.composing import composed

from dat_train.cli.settings.train import MAY_CHANGE
from dat_train.commands.train import run
from dat_train.settings import CommandLine

QUICK = ("data.workers=0", "device=cpu", "img_size=32", "model.img_size=32", "eval.crop_pct=1")


def train(runs: Path, name: str, *overrides: str) -> dict:
    """Train as dat-train with these settings does, and return the run's summary."""
    # the estimate of memory takes longer than such a run itself, and has tests of its own
    with mock.patch("dat_train.commands.train.estimate_memory", return_value={"activations": 0}):
        run(composed(f"runs_dir={runs}", f"name={name}", *QUICK, *overrides), CommandLine(None, MAY_CHANGE))
    return json.loads((runs / name / "summary.json").read_text())
