"""Backbones of timm in the commands: train, stop and resume, evaluate, export, predict; what needs DAT refuses."""

import json

import pytest
from commands.running import run

pytestmark = pytest.mark.long

DIGITS = [
    "experiment=digits", "model=timm", "model.timm_name=resnet18", "img_size=32", "name=run",
    "epochs=2", "schedule.warmup_epochs=0", "batch_size=64", "data.workers=0", "device=cpu",
]  # fmt: skip


def test_resnet18_trains_is_resumed_byte_identically_evaluated_and_exported(tmp_path):
    for folder, steps in (("through", [12]), ("twice", [7, 12])):
        home = tmp_path / folder
        home.mkdir()
        for last in steps:
            result = run("dat-train", *DIGITS, f"max_steps={last}", cwd=home, timeout=300)
            assert result.returncode == 0, result.stderr + result.stdout
    one, two = ((tmp_path / name / "runs/run/checkpoints/last.pt") for name in ("through", "twice"))
    assert one.read_bytes() == two.read_bytes()

    home = tmp_path / "through"
    result = run("dat-eval", "ckpt=runs/run", "data.workers=0", "device=cpu", "output=report", cwd=home, timeout=300)
    assert result.returncode == 0, result.stderr
    assert json.loads((home / "report/result.json").read_text())["images"] > 300
    result = run("dat-export", "ckpt=runs/run", "format=onnx", "validate=false", cwd=home, timeout=300)
    assert result.returncode == 0, result.stderr
    assert (home / "runs/run/export/onnx/model.onnx").exists()
    photo = next((home / "data/digits/val").rglob("*.png"))
    result = run("dat-visualize", "ckpt=runs/run", f"image={photo}", cwd=home)
    assert result.returncode == 2 and "resnet18 has no deformable attention" in result.stderr
