"""The check before a long run: every image is read, the bad ones are named, the exit code says it."""

import subprocess
import sys
from pathlib import Path

from data.files import write_images

SCRIPT = Path(__file__).parents[2] / "scripts/data/check_images.py"


def check(folder):
    command = [sys.executable, str(SCRIPT), str(folder), "--workers", "2"]
    return subprocess.run(command, capture_output=True, text=True)


def test_bad_images_are_named_in_order(tmp_path):
    write_images(tmp_path / "train/a", 40)
    bad = [tmp_path / "train/a/7.png", tmp_path / "train/b/1.jpg"]
    bad[1].parent.mkdir()
    bad[0].write_bytes(bad[0].read_bytes()[:45])
    bad[1].write_text("404")
    result = check(tmp_path)
    assert result.returncode == 1
    lines = result.stdout.splitlines()
    assert [line.partition(": ")[0] for line in lines] == [str(path) for path in bad]
    assert "cannot identify" in lines[1]
    assert result.stderr == "2 of 41 images cannot be read\n"
    for path in bad:
        path.unlink()
    assert check(tmp_path).returncode == 0


def test_nothing_to_check(tmp_path):
    result = check(tmp_path / "nowhere")
    assert result.returncode == 2
    assert result.stderr.splitlines()[-1].endswith(f"error: there are no images in {tmp_path}/nowhere")
