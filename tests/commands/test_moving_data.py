"""A killed run that continues on another form of storage ends with the same weights."""

import io
import shutil
import tarfile

import pytest
import torch
from commands.running import run
from data.files import photo

from dat_train.models.checkpoint import Checkpoint

pytestmark = pytest.mark.long

MODEL = "{dims:[8,16,16,24],depths:[1,1,1,1],heads:[1,2,2,3],groups:[1,2,1,3],blocks:[L,D,D,D]}"
SETTINGS = (
    "model=dat_nano", f"++model.args={MODEL}", "img_size=32", "model.img_size=32", "data=folder", "epochs=4",
    "batch_size=6", "micro_batch_size=6", "schedule.warmup_epochs=0", "data.workers=0", "device=cpu", "log.wandb=false",
)  # fmt: skip


@pytest.fixture
def forms(tmp_path):
    """The same photos as folders, as a zip, and as shards."""
    (tmp_path / "shards").mkdir()
    for part, number in (("train", 12), ("val", 3)):
        with tarfile.open(tmp_path / f"shards/photos-{part}-0.tar", "w") as shard:
            for label, name in enumerate(("cat", "dog")):
                for i in range(number):
                    path = tmp_path / "folders" / part / name / f"{i:02d}.jpg"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    photo(40 + 3 * i, 40).rotate(90 * label + i).save(path)
                    members = {f"{name}/{i:02d}.jpg": path.read_bytes(), f"{name}/{i:02d}.cls": name.encode()}
                    for member, content in members.items():
                        info = tarfile.TarInfo(member)
                        info.size = len(content)
                        shard.addfile(info, io.BytesIO(content))
    shutil.make_archive(str(tmp_path / "photos"), "zip", tmp_path / "folders")
    return tmp_path


def train(forms, name, root, *arguments):
    cache = str(forms / "cache")
    arguments = (*SETTINGS, f"name={name}", f"data.root={root}", *arguments)
    result = run("dat-train", *arguments, cwd=forms, DAT_TRAIN_CACHE=cache)
    assert result.returncode == 0, result.stderr
    return Checkpoint.open(forms / "runs" / name / "checkpoints/last.pt").content, result.stdout


def test_a_run_continued_on_other_forms_ends_with_the_same_bits(forms):
    alone, output = train(forms, "alone", "folders")
    assert "cat (12), dog (12)" in output
    train(forms, "moved", "folders", "max_steps=5")
    train(forms, "moved", "photos.zip", "max_steps=10")
    moved, output = train(forms, "moved", "shards")
    assert "continuing after step 10 of 16" in output
    assert alone["step"] == moved["step"] == 16
    for name, value in alone["model"].items():
        assert torch.equal(value, moved["model"][name]), name


def test_a_run_whose_class_folders_were_renamed_is_not_continued(forms):
    train(forms, "renamed", "folders", "max_steps=5")
    for part in ("train", "val"):
        (forms / "folders" / part / "cat").rename(forms / "folders" / part / "zebra")
    result = run("dat-train", *SETTINGS, "name=renamed", "data.root=folders", cwd=forms)
    assert result.returncode == 2
    assert "was started with other classes: without cat, with the new zebra" in result.stderr.replace("\n", " ")
