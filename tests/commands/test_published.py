"""The commands with published weights, from an empty cache and a local server."""

import json

import pytest
import timm
import torch
from commands.running import run
from models.file_server import file_server
from models.released import write_released
from PIL import Image

from dat_train.models import Checkpoint

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with images, and a server with DAT-T in the released layout."""
    folder = tmp_path_factory.mktemp("published")
    torch.manual_seed(0)
    write_released(timm.create_model("dat_tiny"), folder / "released.pth")
    for split in ("train", "val"):
        for number in range(2):
            place = folder / "images" / split / f"class{number}"
            place.mkdir(parents=True)
            for image in range(2):
                Image.new("RGB", (240, 230), (90 * number, 40 * image, 99)).save(place / f"{image}.png")
    with file_server() as server:
        server.files["dat_tiny_in1k_224.pth"] = (folder / "released.pth").read_bytes()
        yield folder, server


def command(home, *arguments):
    folder, server = home
    place = {"TORCH_HOME": str(folder / "cache"), "DAT_TRAIN_WEIGHTS": server.url}
    return run(*arguments, cwd=folder, timeout=300, **place)


def test_five_commands_use_the_published_weights_and_download_them_once(home):
    folder, server = home
    photo = "images/val/class0/0.png"
    result = command(home, "dat-predict", "model=dat_t", photo, "format=jsonl", "device=cpu")
    assert result.returncode == 0, result.stderr
    assert "downloading the published weights of dat_tiny" in result.stderr
    row = json.loads(result.stdout)
    assert row["path"] == photo and len(row["top"]) == 5

    result = command(home, "dat-visualize", "model=dat_t", f"image={photo}", "device=cpu", "page=false")
    assert result.returncode == 0, result.stderr

    result = command(home, "dat-export", "model=dat_t", "output=exported", "validate=false")
    assert result.returncode == 0, result.stderr
    assert "released checkpoint" in result.stdout.replace("\n", " ")
    assert json.loads((folder / "exported/config.json").read_text())["pretrained_cfg"]["crop_mode"] == "squash"

    settings = ["data=folder", "data.root=images", "device=cpu", "epochs=1", "batch_size=4", "micro_batch_size=2"]
    settings += ["schedule.warmup_epochs=0", "eval.batch_size=2"]
    result = command(home, "dat-train", "model=dat_t", "name=tuned", "init=published", "data.workers=0", *settings)
    assert result.returncode == 0, result.stderr + result.stdout
    assert "1000 classes, the model 2: a newly initialized one stays" in result.stdout.replace("\n", " ")
    assert Checkpoint.open(folder / "runs" / "tuned").config["init"] == "published"

    result = command(home, "dat-average", "published:dat_tiny", "published:dat_tiny", "model=dat_t", "output=a.pt")
    assert result.returncode == 0, result.stderr
    assert len(server.requests) == 1


def test_without_checkpoint_and_published_weights_one_line_has_the_command(home):
    result = command(home, "dat-predict", "images/val/class0/0.png")
    assert result.returncode == 2 and result.stderr.count("\n") == 1
    assert "ckpt is not set: ckpt=PATH, e.g. runs/digits, or model=NAME for its published weights" in result.stderr
    result = command(home, "dat-predict", "model=dat_nano", "images/val/class0/0.png")
    assert result.returncode == 2 and "no published weights for dat_nano; there are some for" in result.stderr
