"""The measuring scripts run and print the numbers that docs/ quotes."""

import re
import runpy
import sys
from pathlib import Path

SCRIPTS = Path(__file__).parents[2] / "scripts"


def printed(name: str, *arguments: str, monkeypatch, capsys) -> str:
    monkeypatch.setattr(sys, "argv", [name, "--model", "dat_nano", "--size", "32", *arguments])
    runpy.run_path(str(SCRIPTS / name), run_name="__main__")
    return capsys.readouterr().out


def test_the_cost_of_checkpoints(monkeypatch, capsys):
    text = printed(
        "measure_checkpoint_cost.py", "--rounds", "2", "--images", "2", monkeypatch=monkeypatch, capsys=capsys
    )
    numbers = dict(re.findall(r"^(a step|pause of a checkpoint|lost while writing|cost) +([\d.]+)", text, re.M))
    assert len(numbers) == 4 and float(numbers["a step"]) > 0
    shares = float(numbers["pause of a checkpoint"]) + float(numbers["lost while writing"])
    assert abs(float(numbers["cost"]) - 100 * shares / 60) < 0.01


def test_the_speed_of_one_process(monkeypatch, capsys):
    text = printed("measure_scaling.py", "--steps", "1", "--images", "2", monkeypatch=monkeypatch, capsys=capsys)
    assert text.startswith("dat_nano, 1 processes of 2 images") and "images/s" in text and "overlapped" not in text
