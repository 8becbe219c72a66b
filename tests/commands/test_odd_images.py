"""One odd image ends neither a training run nor a prediction of the others."""

import json

import numpy as np
import pytest
from commands.fitted_checkpoint import write_fitted_checkpoint
from commands.in_process import train
from commands.running import run_here
from data.files import photo
from PIL import Image
from PIL.PngImagePlugin import PngInfo


def write_odd_images(folder):
    """Readable images of unusual kinds, and unreadable ones."""
    folder.mkdir(parents=True, exist_ok=True)
    readable = {
        "line.png": Image.new("RGB", (60_000, 1), "red"),
        "column.png": Image.new("RGB", (1, 60_000), "red"),
        "transparent.png": photo().convert("LA"),
        "12 bits.png": Image.fromarray(np.arange(4096, dtype=np.uint16).reshape(64, 64)),
    }
    for name, image in readable.items():
        image.save(folder / name)
    notes = PngInfo()
    notes.add_text("history", "ab" * 1_000_000, zip=True)
    photo().save(folder / "text.png", pnginfo=notes)
    (folder / "cut.jpg").write_bytes((folder / "text.png").read_bytes()[:500])
    (folder / "empty.jpg").write_bytes(b"")
    return [*readable, "text.png"], ["cut.jpg", "empty.jpg"]


@pytest.mark.long
def test_odd_validation_images_do_not_end_a_run(tmp_path):
    for label in ("a", "b"):
        for part in ("train", "val"):
            folder = tmp_path / "photos" / part / label
            folder.mkdir(parents=True)
            for i in range(4):
                photo(60 + i, 50).save(folder / f"{i}.jpg")
    _readable, _ = write_odd_images(tmp_path / "photos/val/a")
    write_odd_images(tmp_path / "photos/train/b")
    settings = [
        "model=dat_nano", "data=folder", f"data.root={tmp_path}/photos", "data.max_unreadable=0.9", "epochs=1",
        "schedule.warmup_epochs=0", "batch_size=4", "micro_batch_size=4", "eval.batch_size=4", "eval.resize=short_side",
    ]  # fmt: skip
    summary = train(tmp_path, "odd", *settings)
    assert summary["steps"] == 3
    rows = [json.loads(line) for line in (tmp_path / "odd/metrics.jsonl").read_text().splitlines()]
    assert any("val_top1" in row for row in rows)


@pytest.mark.long
def test_odd_images_are_predicted_or_reported_one_by_one(tmp_path):
    write_fitted_checkpoint(tmp_path / "run")
    readable, unreadable = write_odd_images(tmp_path / "images")
    paths = [f"images/{name}" for name in [*unreadable, *readable]]
    result = run_here("dat-predict", "ckpt=run/checkpoints/best.pt", *paths, "format=jsonl", cwd=tmp_path)
    assert result.returncode == 1
    assert [json.loads(line)["path"] for line in result.stdout.splitlines()] == paths[2:]
    for name in unreadable:
        assert f"images/{name}" in result.stderr
    assert "2 of 7 images" in result.stderr
