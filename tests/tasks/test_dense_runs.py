"""Real runs of segmentation and detection: kills, world sizes, evaluation and prediction by the commands."""

import json
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from commands.running import run_here
from PIL import Image
from training.real_run import RealRun, ranks

from dat_train.data.generated.digit_scenes import write_digit_scenes

pytestmark = pytest.mark.long
TINY = [
    *("model=datpp_t", "model.img_size=96", "img_size=96", "model.drop_path_rate=0.2", "device=cpu", "name=run"),
    "++model.args={dims:[8,16,16,24],depths:[1,1,1,1],num_heads:[1,2,2,3],groups:[1,1,2,1]}",
    *("data=digit_scenes", "data.workers=1", "dense.limits=[128,96]", "batch_size=4", "micro_batch_size=2"),
    *("max_steps=6", "schedule.warmup_steps=2", "optim.lr=1e-3", "checkpoint.every_minutes=0", "log.every=1"),
]
TASKS = {
    "segmentation": ["task=segmentation", "dense.head=upernet", "dense.channels=16", "steps=6", "eval.every_steps=3"],
    "detection": [
        "task=detection",
        "dense.head=mask_rcnn",
        "dense.channels=16",
        "dense.short_sides=[88,96]",
        "dense.crop_short_sides=[96]",
        "dense.crop_sides=[64,96]",
    ],
}


class DenseRun(RealRun):
    settings = TINY


class Evaluation(RealRun):
    settings = ()
    command = "eval"


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    return write_digit_scenes(tmp_path_factory.mktemp("data") / "scenes", train=24, val=4)


def arguments(task, scenes, *more):
    kind = "masks" if task == "segmentation" else "boxes"
    return [*TASKS[task], f"data.kind={kind}", f"data.root={scenes}", *more]


def weights(run: Path) -> dict[str, torch.Tensor]:
    return torch.load(run / "checkpoints" / "last.pt", weights_only=True)["model"]


@pytest.mark.parametrize("task", TASKS)
def test_a_killed_run_continues_to_the_same_bytes(task, scenes, tmp_path):
    whole = DenseRun(tmp_path / "whole", *arguments(task, scenes))
    assert whole.wait(300) == 0, whole.output
    killed = DenseRun(tmp_path / "killed", *arguments(task, scenes))
    killed.wait_for_step(3)
    killed.send(signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    again = DenseRun(tmp_path / "killed", *arguments(task, scenes))
    assert again.wait(300) == 0, again.output
    for name in ("last.pt", "best.pt"):
        files = [run.run / "checkpoints" / name for run in (whole, again)]
        assert files[0].read_bytes() == files[1].read_bytes(), name


def command(*line: str, cwd: Path) -> None:
    done = run_here(*line, cwd=cwd)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("task", TASKS)
def test_processes_and_accumulation_change_no_weight(task, scenes, tmp_path):
    """One process with four micro-batches, two with two, and four with one."""
    settings = arguments(task, scenes, "dtype=fp64", "batch_size=8", "max_steps=3")
    one = DenseRun(tmp_path / "one", *settings)
    assert one.wait(300) == 0, one.output
    expected = weights(one.run)
    for processes in (2, 4):
        group = ranks(tmp_path / str(processes), processes, *settings, kind=DenseRun)
        assert [run.wait(400) for run in group] == [0] * processes, group[0].output
        found = weights(group[0].run)
        for name, value in expected.items():
            assert torch.allclose(value.double(), found[name].double(), rtol=0, atol=1e-9), (processes, name)


@pytest.mark.parametrize("task", TASKS)
def test_a_trained_model_is_evaluated_the_same_by_any_number_of_processes_and_predicts(task, scenes, tmp_path):
    run = DenseRun(tmp_path, *arguments(task, scenes, "inspect.every=3"))
    assert run.wait(300) == 0, run.output
    assert "offset_length/stage4.block1" in (run.run / "metrics.jsonl").read_text()
    ckpt = run.run / "checkpoints" / "best.pt"
    command("dat-eval", f"ckpt={ckpt}", cwd=tmp_path)
    evaluated = run.run / "eval"
    result = json.loads((evaluated / "result.json").read_text())
    three = ranks(tmp_path, 3, f"ckpt={ckpt}", "output=three", kind=Evaluation)  # 2, 1 and 1 image
    assert [run.wait(400) for run in three] == [0] * 3, three[0].output
    for name in ("per_class.csv", "confusion.csv" if task == "segmentation" else "detections.json"):
        assert (evaluated / name).read_bytes() == (tmp_path / "three" / name).read_bytes(), name
    picture = next((scenes / "images" / "val").iterdir())
    output = tmp_path / "predictions"
    command("dat-predict", f"ckpt={ckpt}", str(picture), f"output={output}", cwd=tmp_path)
    if task == "segmentation":
        assert result["miou"] >= 0 and result["images"] == 4
        mask = np.asarray(Image.open(output / f"{picture.stem}.mask.png"))
        assert mask.shape == Image.open(picture).size[::-1]
        areas = json.loads((output / "areas.json").read_text())[0]["classes"]
        assert sum(area["pixels"] for area in areas.values()) == mask.size
        views = ("dense.scales=[0.5,1.0,1.5]", "dense.flip=true")
        command("dat-eval", f"ckpt={ckpt}", *views, "output=views", cwd=tmp_path)
        several = json.loads((tmp_path / "views" / "result.json").read_text())
        assert several["scales"] == [0.5, 1.0, 1.5] and several["flip"] and several["miou"] != result["miou"]
    else:
        assert set(result["box"]) == set(result["mask"]) and len(result["box"]) == 12
        assert (evaluated / "per_class.csv").read_text().startswith("index,name,box_ap,mask_ap\n0,0,")
        assert Image.open(output / f"{picture.stem}.boxes.png").size[0] >= Image.open(picture).size[0]
        found = json.loads((output / "detections.json").read_text())
        assert found["images"][0]["file_name"] == str(picture) and len(found["categories"]) == 10


@pytest.mark.parametrize("task", TASKS)
def test_a_run_is_not_continued_on_other_images_but_on_the_same_in_another_folder(task, scenes, tmp_path):
    first = DenseRun(tmp_path, *arguments(task, scenes, "max_steps=2"))
    assert first.wait(300) == 0, first.output
    moved = shutil.copytree(scenes, tmp_path / "moved")
    again = DenseRun(tmp_path, *arguments(task, moved, "max_steps=3"))
    assert again.wait(300) == 0, again.output
    other = write_digit_scenes(tmp_path / "other", train=20, val=4)
    refused = DenseRun(tmp_path, *arguments(task, other, "max_steps=4"))
    assert refused.wait(300) == 2
    assert "was started with other data: training: 24 images -> 20" in refused.output
