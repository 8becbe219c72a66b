"""Commands of the README section "Published weights", run in an empty folder with weights from a local server.

The weights are stand-ins in the released layout: DAT-T as it is initialized.
"""

import json
import re
import shlex
from pathlib import Path

import pytest
import timm
import torch
from commands.running import run_forked, run_python, torchrun
from data.files import photo
from data.imagenet_forms import tar
from models.file_server import file_server
from models.released import write_released

from dat_train.models import Checkpoint

pytestmark = pytest.mark.long

FILE = "dat_tiny_in1k_224.pth"
README = Path(__file__).parents[2] / "README.md"
TUNING = (
    "data=folder", "data.root=photos", "epochs=1", "batch_size=4", "micro_batch_size=2", "eval.batch_size=2",
    "schedule.warmup_epochs=0", "data.workers=0",
)  # fmt: skip


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A server that behaves like the authors', with DAT-T in the released layout."""
    file = tmp_path_factory.mktemp("released") / FILE
    torch.manual_seed(0)
    write_released(timm.create_model("dat_tiny"), file)
    with file_server() as running:
        running.redirect, running.disposition = True, FILE
        running.files[FILE] = file.read_bytes()
        yield running


@pytest.fixture
def newcomer(server, tmp_path):
    """Function that runs a command in a folder with images only and an empty cache; `offline=True`: without network."""
    write_data(tmp_path)
    server.requests = []

    def command(name, *arguments, offline=False):
        place = {"TORCH_HOME": str(tmp_path / "home"), "DAT_TRAIN_CACHE": str(tmp_path / "home")}
        unreachable = "http://127.0.0.1:9"  # as proxy it keeps the test away from the authors' server
        place |= {"DAT_TRAIN_WEIGHTS": unreachable if offline else server.url, "https_proxy": unreachable}
        if name == "python":
            return run_python(["-c", *arguments], tmp_path, 300, place)
        if name == "torchrun":
            return torchrun(*arguments, cwd=tmp_path, **place)
        device = () if name in ("dat-export", "dat-average") else ("device=cpu",)
        return run_forked(name, *arguments, *device, cwd=tmp_path, timeout=300, **place)

    command.folder = tmp_path
    return command


def write_data(folder: Path) -> None:
    """photo.jpg, photos/ in class folders, and imagenet/ with the validation images as they are distributed."""
    photo(300, 240).save(folder / "photo.jpg")
    for split, number, angle in (("train", 4, 0), ("val", 2, 20)):
        for turn, name in enumerate(("cat", "dog")):
            place = folder / "photos" / split / name
            place.mkdir(parents=True)
            for index in range(number):
                photo(64, 48).rotate(90 * turn + angle + index).save(place / f"{index}.jpg")
    images = folder / "flat"
    images.mkdir()
    names = [f"ILSVRC2012_val_{number:08d}" for number in range(1, 7)]
    for number, name in enumerate(names):
        photo(64, 48).rotate(number).save(images / f"{name}.JPEG")
    (folder / "imagenet").mkdir()
    tar(folder / "imagenet/ILSVRC2012_img_val.tar", images, [f"{name}.JPEG" for name in names])
    synsets = ("n01440764", "n01443537", "n01484850") * 2
    rows = "".join(f"{name},{synset} 1 2 3 4\n" for name, synset in zip(names, synsets, strict=True))
    (folder / "imagenet/LOC_val_solution.csv").write_text(f"ImageId,PredictionString\n{rows}")


def succeeded(result) -> str:
    """Standard output of a command that succeeded, without line breaks."""
    assert result.returncode == 0, result.stderr + result.stdout
    return " ".join(result.stdout.split())


def readme_commands() -> list[tuple[list[str], list[str]]]:
    """Commands of the README section "Published weights", each with its lines of output."""
    block = README.read_text().partition("## Published weights")[2].partition("```\n")[2].partition("```")[0]
    commands = [part.splitlines() for part in block.split("$ ")[1:]]
    return [(shlex.split(first), [line for line in lines if line.strip(" .")]) for first, *lines in commands]


def masked(line: str) -> str:
    """A line without what varies: numbers, predicted classes, addresses, and the folder of the weights."""
    line = re.sub(r"https?://\S+", "URL", line)
    line = re.sub(rf"\S+/{FILE}", "FILE", line)
    line = re.sub(r"%  .*|: .*%(?=   )", "%", line)
    return re.sub(r"\d+", "#", " ".join(line.split()))


def test_the_readme_commands_for_published_weights_work_from_an_empty_folder_and_download_once(newcomer, server):
    commands = readme_commands()
    assert [words[0] for words, _ in commands] == ["python", "dat-predict", "dat-eval", "dat-train", "dat-visualize"]
    for number, (words, expected) in enumerate(commands):
        arguments = words[2:] if words[0] == "python" else words[1:]
        arguments += TUNING if words[0] == "dat-train" else ()
        result = newcomer(words[0], *arguments, offline=number > 0)
        assert result.returncode == 0, result.stderr + result.stdout
        found = [masked(line) for line in (result.stderr + result.stdout).splitlines()]
        assert [line for line in map(masked, expected) if line not in found] == [], "\n".join(found)
        assert ("downloading" in result.stderr) == (number == 0)
    assert [path for path, _ in server.requests] == [f"/{FILE}", f"/files/{FILE}"]

    result = json.loads((newcomer.folder / "eval/result.json").read_text())
    assert (result["images"], result["weights"], result["model"]) == (6, "released checkpoint", "dat_t")
    assert {"attention.html", "attention.png", "points.png", "predictions.png"} <= {
        path.name for path in (newcomer.folder / "visualize/photo").iterdir()
    }
    assert Checkpoint.open(newcomer.folder / "runs/dat_t-folder").config["init"] == "published"


def test_published_weights_are_exported_and_averaged(newcomer, server):
    assert "released checkpoint" in succeeded(newcomer("dat-export", "model=dat_t", "output=out", "validate=false"))
    assert json.loads((newcomer.folder / "out/config.json").read_text())["pretrained_cfg"]["crop_mode"] == "squash"
    succeeded(newcomer("dat-average", "published:dat_tiny", "published:dat_tiny", "model=dat_t", "output=a.pt"))
    assert len(server.requests) == 2  # the redirect and the file


def test_processes_of_torchrun_download_the_weights_once(newcomer, server):
    server.pause = 3  # so that the second process asks during the download of the first
    result = newcomer("torchrun", "dat-train", "model=dat_t", "init=published", "device=cpu", "max_steps=1", *TUNING)
    server.pause = 0
    assert "released checkpoint" in succeeded(result)
    assert result.stderr.count("downloading the published weights") == 1
    assert len(server.requests) == 2


def test_a_table_of_own_images_is_evaluated_with_published_weights(newcomer):
    (newcomer.folder / "labels.csv").write_text("path,label\nphoto.jpg,n01440764\nphotos/val/cat/0.jpg,n01443537\n")
    text = succeeded(newcomer("dat-eval", "model=dat_t", "data=csv", "data.root=labels.csv"))
    assert "2 images" in text


def test_unreachable_weights_are_one_line_with_link_and_folder(newcomer):
    result = newcomer("dat-predict", "model=dat_t", "photo.jpg", offline=True)
    assert result.returncode == 2 and not result.stdout
    assert result.stderr.splitlines()[-1].startswith("error: the published weights of dat_tiny cannot be downloaded (")
    link = "https://cloud.tsinghua.edu.cn/f/1367349deefc48efa650/"
    assert f"open {link} in a browser and put the file into {newcomer.folder}" in result.stderr


def test_without_checkpoint_and_published_weights_one_line_has_the_command(newcomer):
    result = newcomer("dat-predict", "photo.jpg")
    assert result.returncode == 2 and result.stderr.count("\n") == 1
    assert "ckpt is not set: ckpt=PATH, e.g. runs/digits, or model=NAME for its published weights" in result.stderr
    result = newcomer("dat-predict", "model=dat_nano", "photo.jpg")
    assert result.returncode == 2 and "no published weights for dat_nano; there are some for" in result.stderr
