"""dat-visualize and dat-predict with checkpoints of segmentation and detection."""

import json
import re
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from commands.composing import composed
from commands.running import run_here
from models.released import write_released_dense
from PIL import Image

from dat_train.commands.build_model import build_model
from dat_train.commands.build_training import build_state
from dat_train.commands.load_trained import TrainedDense
from dat_train.commands.saved_settings import trained_with
from dat_train.models import Checkpoint
from dat_train.models.segmentation import create_segmentation
from dat_train.models.weights.published_dense import published_experiment
from dat_train.runtime.checkpoint_file import write_checkpoint
from dat_train.runtime.precision import resolve_precision

CLASSES = {"segmentation": ["background", "a", "b"], "detection": ["a", "b"]}
SMALL = "++model.args={dims:[8,16,16,24],depths:[1,1,2,1],num_heads:[1,2,2,3],groups:[1,1,2,1]}"
HEADS = {"segmentation": "semantic_fpn", "detection": "mask_rcnn"}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Checkpoints of small random models that predict objects, and images of several sizes, one of them unreadable."""
    home = tmp_path_factory.mktemp("home")
    for task, classes in CLASSES.items():
        config = composed(f"experiment=digit_scenes_{task}", SMALL, f"dense.head={HEADS[task]}", "dense.channels=8")
        model = build_model(config, len(classes))
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "fc_cls.weight" in name or "conv_seg.weight" in name:
                    parameter.mul_(1000)
        precision = resolve_precision(config.dtype, torch.device("cpu"))
        write_checkpoint(build_state(config, model, precision, classes).state_dict(0), home / f"{task}.pt")
    (home / "images/c").mkdir(parents=True)
    random = np.random.default_rng(0)
    for name, size in (("a.png", (90, 130, 3)), ("b.jpg", (40, 33, 3)), ("c/a.png", (7, 300, 3))):
        Image.fromarray(random.integers(0, 256, size, np.uint8)).save(home / "images" / name)
    (home / "images/d.png").write_text("no image")
    return home


@pytest.mark.parametrize("task", CLASSES)
def test_prediction_ends_after_timeout_minutes(task, home, monkeypatch):
    released = threading.Event()
    monkeypatch.setattr("dat_train.commands.predict.read_rgb", lambda path: released.wait(60))
    ended = run_here("dat-predict", f"ckpt={task}.pt", "images", "output=out", "timeout_minutes=0.01", cwd=home)
    released.set()
    assert ended.returncode == 2 and len(ended.stderr.splitlines()) == 1, ended.stderr
    assert "no batch arrived within 0.01 minutes at image 0" in ended.stderr


def names(folder):
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("task", CLASSES)
def test_an_image_is_visualized_with_its_prediction(task, home):
    result = run_here("dat-visualize", f"ckpt={task}.pt", "image=images/c", f"output=seen/{task}", cwd=home)
    assert result.returncode == 0 and result.stderr == ""
    pictures = {"points.png", "attention.png", "heat.png", "traced.png", "scene.png", "attention.html"}
    assert names(home / "seen" / task / "a") == pictures | {"points_stage3_block2.png", "points_stage4_block1.png"}
    assert ("(score over 0.3)" if task == "detection" else "%") in result.stdout


def test_the_lowest_score_of_pictures_is_a_setting_and_the_file_has_all_objects(home, monkeypatch):
    real = TrainedDense.detect

    def with_falling_scores(self, image):  # those of this random model are all 1
        found = real(self, image)
        return replace(found, scores=torch.linspace(0.9, 0.1, len(found.scores)))

    monkeypatch.setattr(TrainedDense, "detect", with_falling_scores)
    shown, pictures = [], []
    for score in ("0.05", "0.5", "1"):
        arguments = ("images/a.png", f"score={score}", f"output=score/{score}")
        result = run_here("dat-predict", "ckpt=detection.pt", *arguments, cwd=home)
        assert result.returncode == 0 and f"(score over {score})" in result.stdout, result.stderr
        found = json.loads((home / "score" / score / "detections.json").read_text())["annotations"]
        shown.append(sum(int(number) for number in re.findall(r"(\d+) x ", result.stdout)))
        pictures.append((home / "score" / score / "a.boxes.png").read_bytes())
    assert shown[0] == len(found) > shown[1] > 0 == shown[2] and len(set(pictures)) == 3
    seen = run_here("dat-visualize", "ckpt=detection.pt", "image=images/a.png", "score=1", "output=none", cwd=home)
    assert seen.returncode == 0 and "no objects (score over 1)" in seen.stdout, seen.stderr


def test_queries_of_dense_models_are_pixels_of_the_image(home):
    command = ("dat-visualize", "ckpt=detection.pt", "image=images/a.png", "output=one", "pictures=false")
    assert run_here(*command, "query=[120,80]", cwd=home).returncode == 0
    text = (home / "one/a/attention.html").read_text()
    start = json.loads(text[text.index('"start":') + 8 :].partition("]")[0] + "]")
    assert start == pytest.approx([120 * 128 / 130, 80 * 89 / 90], rel=0.01)
    refused = run_here(*command, "query=[80,120]", cwd=home)
    assert refused.returncode == 2 and "between 0 and 130 (x) or 90 (y)" in refused.stderr


@pytest.mark.parametrize("task", CLASSES)
def test_prediction_continues_after_an_unreadable_image(task, home):
    views = ("dense.scales=[0.5,1.0]", "dense.flip=true") if task == "segmentation" else ()
    result = run_here("dat-predict", f"ckpt={task}.pt", "images", f"output=found/{task}", *views, cwd=home)
    assert result.returncode == 1
    assert "images/d.png" in result.stderr and "1 of 4 images could not be read" in result.stderr
    if task == "segmentation":
        assert names(home / "found/segmentation") == {
            *(f"{name}.{kind}.png" for name in ("a", "b", "a-2") for kind in ("mask", "overlay")),
            "areas.json",
        }
        areas = json.loads((home / "found/segmentation/areas.json").read_text())
        assert [record["path"] for record in areas] == ["images/a.png", "images/b.jpg", "images/c/a.png"]
        for record, name in zip(areas, ("a", "b", "a-2"), strict=True):
            mask = np.asarray(Image.open(home / f"found/segmentation/{name}.mask.png"))
            counts = {CLASSES[task][k]: int(n) for k, n in enumerate(np.bincount(mask.ravel())) if n}
            assert {key: area["pixels"] for key, area in record["classes"].items()} == counts
            assert mask.shape == Image.open(home / record["path"]).size[::-1]
    else:
        assert names(home / "found/detection") == {"a.boxes.png", "b.boxes.png", "a-2.boxes.png", "detections.json"}
        found = json.loads((home / "found/detection/detections.json").read_text())
        assert [image["file_name"] for image in found["images"]] == ["images/a.png", "images/b.jpg", "images/c/a.png"]
        assert [annotation["id"] for annotation in found["annotations"]] == list(
            range(1, len(found["annotations"]) + 1)
        )
        assert {annotation["image_id"] for annotation in found["annotations"]} <= {1, 2, 3}
        assert all(annotation["segmentation"]["counts"] for annotation in found["annotations"])


@pytest.mark.long
def test_released_dense_weights_get_the_settings_of_their_experiment(home):
    model = create_segmentation("datpp_tiny", "semantic_fpn", 150)
    write_released_dense(model, home / "released.pth", CLASSES=tuple(f"class {i}" for i in range(150)))
    checkpoint = Checkpoint.open(home / "released.pth")
    assert trained_with(checkpoint) == {"experiment": "semantic_fpn_datpp_t"}
    result = run_here("dat-predict", "ckpt=released.pth", "images/a.png", "output=released", cwd=home)
    assert result.returncode == 0, result.stderr
    areas = json.loads((home / "released/areas.json").read_text())[0]["classes"]
    assert sum(area["pixels"] for area in areas.values()) == 90 * 130


def test_published_dense_models_are_known_by_their_heads_and_widths():
    heads = {
        "decode_head.psp_modules.0.1.conv.weight": "upernet_datpp_b",
        "roi_head.bbox_head.0.fc_cls.weight": "cascade_mask_rcnn_datpp_b_3x",
        "roi_head.bbox_head.fc_cls.weight": "mask_rcnn_datpp_b_3x",
        "bbox_head.retina_cls.weight": "retinanet_datpp_b_3x",
    }
    for name, experiment in heads.items():
        state = {"backbone.patch_proj.3.weight": torch.zeros(128, 64, 3, 3), name: torch.zeros(1)}
        assert published_experiment(state) == experiment
        assert published_experiment(state | {"backbone.patch_proj.3.weight": torch.zeros(7, 3, 3, 3)}) is None
