"""dat-export, dat-average and dat-bench for segmentation and detection."""

import json
import shutil

import numpy as np
import onnxruntime
import pytest
import torch
from commands.running import run_here
from commands.small_dense_checkpoint import SMALL, write_small_dense_checkpoint

from dat_train.data.generated.digit_scenes import CLASSES, write_digit_scenes
from dat_train.models import Checkpoint

TASKS = {"segmentation": CLASSES, "detection": CLASSES[1:]}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Two checkpoints of each task that differ a little, a detector with masks, and a few scenes."""
    folder = tmp_path_factory.mktemp("home")
    write_digit_scenes(folder / "scenes", train=2, val=2)
    data = ["data.kind=masks", f"data.root={folder}/scenes", "data.workers=0", "device=cpu"]
    for task, classes in TASKS.items():
        data[0] = "data.kind=masks" if task == "segmentation" else "data.kind=boxes"
        path = write_small_dense_checkpoint(folder / f"{task}.pt", task, *data, classes=classes)
        content = Checkpoint.open(path).content
        torch.manual_seed(0)
        moved = {
            name: value + 0.01 * torch.randn_like(value) if value.is_floating_point() else value
            for name, value in content["model"].items()
        }
        torch.save(content | {"model": moved}, folder / f"{task}2.pt")
    write_small_dense_checkpoint(
        folder / "masks.pt", "detection", "dense.head=mask_rcnn", *data, classes=TASKS["detection"]
    )
    return folder


# dat-export


@pytest.mark.long
def test_a_segmentation_model_is_exported_for_any_size_with_palette_and_measured(home):
    result = run_here("dat-export", "ckpt=segmentation.pt", "format=onnx", "int8=true", "output=onnx", cwd=home)
    assert result.returncode == 0, result.stderr
    steps = json.loads((home / "onnx/preprocessing.json").read_text())
    assert steps["classes"] == list(CLASSES) and len(steps["palette"]) == len(CLASSES)
    assert steps["input"]["shape"] == ["batch", 3, "height", "width"]
    assert steps["resize"]["long_side_at_most"] == 128 and not steps["resize"]["antialias"]
    session = onnxruntime.InferenceSession(str(home / "onnx/model.onnx"), providers=["CPUExecutionProvider"])
    images = np.zeros((1, 3, 75, 200), np.float32)
    assert session.run(None, {"images": images})[0].shape == (1, len(CLASSES), 75, 200)
    pytorch, plain, small = json.loads((home / "onnx/accuracy.json").read_text())
    assert plain["miou"] == pytest.approx(pytorch["miou"], abs=0.01) and small["images"] == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["ckpt=segmentation.pt"], "format=safetensors is for classifiers, not for task=segmentation: set format=onnx"),
        (["ckpt=masks.pt", "format=onnx"], "dense.head=mask_rcnn cannot be exported, only retinanet can"),
        (["ckpt=detection.pt", "format=onnx", "validate=true"], "validate=true is not possible for task=detection"),
    ],
)
def test_what_cannot_be_exported_is_one_line(arguments, message, home):
    result = run_here("dat-export", *arguments, cwd=home)
    assert result.returncode == 2 and message in result.stderr and result.stderr.count("\n") == 1, result.stderr


# dat-eval


@pytest.mark.parametrize("task", TASKS)
def test_neither_training_images_nor_every_validation_image_are_needed_to_evaluate(task, home, tmp_path):
    names = ("images/val", "masks/val", "annotations/instances_val.json", "classes.txt")
    for source in (home / "scenes" / name for name in names):
        target = tmp_path / "scenes" / source.relative_to(home / "scenes")
        target.parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if source.is_dir() else shutil.copy)(source, target)
    arguments = (f"ckpt={home}/{task}.pt", f"data.root={tmp_path}/scenes", "output=eval")
    for damaged in (0, 1):
        result = run_here("dat-eval", *arguments, cwd=tmp_path)
        assert result.returncode == 0, result.stderr
        found = json.loads((tmp_path / "eval/result.json").read_text())
        assert (found["images"], len(found["unreadable"])) == (2 - damaged, damaged)
        (tmp_path / "scenes/images/val/0000.png").write_bytes(b"no image")


# dat-average


@pytest.mark.parametrize("task", TASKS)
def test_dense_models_are_averaged(task, home):
    result = run_here("dat-average", f"{task}.pt", f"{task}2.pt", f"output={task}-soup.pt", cwd=home)
    assert result.returncode == 0, result.stderr
    a, b, soup = (Checkpoint.open(home / f"{name}.pt").content["model"] for name in (task, f"{task}2", f"{task}-soup"))
    for name, value in a.items():
        expected = (value.double() + b[name].double()) / 2 if value.is_floating_point() else value
        assert torch.allclose(soup[name].double(), expected.double(), atol=1e-6), name


@pytest.mark.long
@pytest.mark.parametrize(("task", "score"), [("segmentation", "mIoU"), ("detection", "box AP")])
def test_a_greedy_average_of_dense_models_is_chosen_by_the_score_of_the_task(task, score, home):
    arguments = [f"{task}.pt", f"{task}2.pt", "kind=greedy", f"output={task}-greedy.pt"]
    result = run_here("dat-average", *arguments, cwd=home)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith(f"{score} in percent on digit_scenes, 2 images")
    assert run_here("dat-eval", f"ckpt={task}-greedy.pt", f"output=e-{task}", cwd=home).returncode == 0


# dat-bench


@pytest.mark.long
@pytest.mark.parametrize(("task", "head"), [("segmentation", "semantic_fpn"), ("detection", "retinanet")])
def test_dense_models_are_measured_next_to_a_baseline(task, head, tmp_path):
    arguments = [task, f"dense.head={head}", "dense.channels=16", "model=datpp_t", "baseline=resnet18", SMALL]
    size = ["img_size=64", "width=96", "batch_size=1", "repeats=1", "warmup=0", "threads=1", "json=bench.json"]
    result = run_here("dat-bench", *arguments, *size, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    rows = json.loads((tmp_path / "bench.json").read_text())["results"]
    assert {(row["name"], row["mode"]) for row in rows} == {
        (name, mode) for name in ("datpp_tiny", "resnet18") for mode in ("inference", "training")
    }
    assert all(row["memory"] > 0 and row["macs"] > 0 for row in rows)


def test_benchmarks_that_are_not_possible_are_one_line(tmp_path):
    for arguments, message in (
        (["segmentation", "dense.head=retinanet"], "dense.head=retinanet does not belong to segmentation, which has"),
        (["detection", "compile=[true]"], "compile=[true] is not possible for detection"),
        (["segmentation", "batch_size=1"], "set batch_size=2, modes=[inference] or dense.head=semantic_fpn"),
    ):
        result = run_here("dat-bench", *arguments, cwd=tmp_path)
        assert result.returncode == 2 and message in result.stderr and result.stderr.count("\n") == 1, result.stderr
