"""A changed bit in a checkpoint is noticed by every command that reads one."""

import pytest
from commands.running import run_here
from commands.small_checkpoint import write_small_checkpoint
from PIL import Image
from troubleshooting import entry

FAKE = ["data=fake", "data.fake_images=80", "data.fake_classes=10", "data.workers=0"]
COMMANDS = [
    ("dat-eval", "ckpt=run", *FAKE),
    ("dat-predict", "ckpt=run/checkpoints/best.pt", "image.png"),
    ("dat-export", "ckpt=run", "validate=false"),
    ("dat-average", "whole.pt", "run"),
    ("dat-visualize", "ckpt=run", "image=image.png"),
    ("dat-train", "experiment=digits", "init=run", *FAKE),
    ("dat-train", "experiment=digits", "distill.weights=run", *FAKE),
    ("dat-train", "experiment=digits", "resume=run/checkpoints/best.pt", *FAKE),
]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("damaged")
    path = write_small_checkpoint(folder / "run" / "checkpoints" / "best.pt")
    (folder / "run" / "config.yaml").touch()
    damaged = bytearray(path.read_bytes())
    (folder / "whole.pt").write_bytes(damaged)
    damaged[len(damaged) // 2] ^= 4
    path.write_bytes(damaged)
    Image.new("RGB", (40, 40)).save(folder / "image.png")
    return folder


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: " ".join(command[:3]))
def test_a_changed_bit_is_noticed_by_every_command(command, home):
    result = run_here(*command, cwd=home)
    assert result.returncode == 2, result.stderr
    assert "best.pt was altered" in result.stderr and entry("damaged-checkpoint").fullmatch(result.stderr.strip())
