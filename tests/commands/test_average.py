"""dat-average from the command line; its result is a checkpoint for dat-eval."""

import json

import pytest
import torch
from commands.running import run_here
from commands.small_checkpoint import write_small_checkpoint

from dat_train.models import Checkpoint
from dat_train.runtime.checkpoint_file import write_checkpoint

HERE = [
    "data=fake", "data.fake_images=40", "data.fake_classes=10", "data.val_fraction=0.5", "data.workers=0", "device=cpu",
]  # fmt: skip


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Three checkpoints of one model: the second is near the first, the third far away."""
    folder = tmp_path_factory.mktemp("average")
    write_small_checkpoint(folder / "a.pt")
    content = Checkpoint.open(folder / "a.pt").content
    torch.manual_seed(0)
    for name, size in (("b", 0.01), ("c", 1.0)):
        moved = {key: value + size * torch.randn_like(value) for key, value in content["model"].items()}
        torch.save(content | {"model": moved}, folder / f"{name}.pt")
    write_small_checkpoint(folder / "other.pt", classes=["x", "y"])
    return folder


def average(folder, *arguments):
    return run_here("dat-average", *arguments, *HERE, cwd=folder)


def test_a_uniform_average_is_a_checkpoint_of_the_mean(home):
    result = average(home, "a.pt", "b.pt", "output=soups/ab.pt")
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[0] == "the average of a.pt, b.pt"
    a, b, soup = (Checkpoint.open(home / name).content["model"] for name in ("a.pt", "b.pt", "soups/ab.pt"))
    assert all(torch.allclose(soup[name], (a[name] + b[name]) / 2, atol=1e-6) for name in a)
    result = run_here("dat-eval", "ckpt=soups/ab.pt", *HERE, "output=report", cwd=home)
    assert result.returncode == 0, result.stderr
    assert json.loads((home / "report/result.json").read_text())["images"] == 20


def test_a_greedy_average_is_not_worse_than_the_best(home):
    result = average(home, "a.pt", "b.pt", "c.pt", "kind=greedy", "output=greedy.pt")
    assert result.returncode == 0, result.stderr
    found = []
    for name in ("a", "b", "c", "greedy"):
        assert run_here("dat-eval", f"ckpt={name}.pt", *HERE, f"output={name}", cwd=home).returncode == 0
        found.append(json.loads((home / name / "result.json").read_text())["top1"])
    assert found[-1] >= max(found[:-1])
    members = Checkpoint.open(home / "greedy.pt").content["average"]
    assert members and set(members) <= {"a.pt", "b.pt", "c.pt"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a.pt"], "ckpt has 1 checkpoint, an average needs two"),
        (["a.pt", "absent.pt"], "absent.pt: no such file"),
        (["a.pt", "other.pt"], "the models differ: head.fc.bias is (10,) in the first and (2,) in number 2"),
        (["other.pt", "other.pt", "kind=greedy"], "data=fake has classes 0 to 9, which are not the model's classes"),
        (["a.pt", "b.pt", "kind=mean"], "kind=mean must be one of uniform, greedy"),
    ],
)
def test_checkpoints_that_cannot_be_averaged_give_one_line(arguments, message, home):
    result = average(home, *arguments, "output=none.pt")
    assert result.returncode == 2 and message in result.stderr and result.stderr.count("\n") == 1, result.stderr
    assert not (home / "none.pt").exists()


def test_models_of_other_classes_are_not_averaged(home):
    content = Checkpoint.open(home / "a.pt").content
    write_checkpoint(content | {"classes": [f"new {name}" for name in content["classes"]]}, home / "renamed.pt")
    result = average(home, "a.pt", "renamed.pt", "output=none.pt")
    assert result.returncode == 2 and "renamed.pt has other classes: without 0" in result.stderr, result.stderr
