"""Backbones of timm in the commands: training with kills, evaluation, export, average, speed, pretrained weights."""

import json
import signal

import onnxruntime
import pytest
import timm
import torch
from commands.running import run, run_forked
from data.files import write_image
from safetensors.torch import save_file
from training.real_run import RealRun, content, ended

from dat_train.commands.load_trained import open_trained
from dat_train.models import Checkpoint

pytestmark = pytest.mark.long

DIGITS = [
    "experiment=digits", "img_size=32", "epochs=2", "schedule.warmup_epochs=0", "data.workers=0", "device=cpu",
    "checkpoint.every_minutes=0", "log.every=1", "name=run",
]  # fmt: skip
SWIN = ["patch_size=2", "window_size=4", "embed_dim=24", "depths=[1,1,2,1]", "num_heads=[1,2,4,8]"]
BACKBONES = {
    "resnet18": ["model=timm", "model.timm_name=resnet18"],
    "swin_t": ["model=swin_t", "model.img_size=32", *(f"model.args.{argument}" for argument in SWIN)],
}


class DigitsRun(RealRun):
    """A run of 44 steps on the digits with a checkpoint after every step."""

    settings = DIGITS


@pytest.fixture(scope="module", params=BACKBONES)
def trained(request, tmp_path_factory):
    """Name of a backbone, and the folder of a run that was killed twice."""
    home = tmp_path_factory.mktemp(request.param)
    through = DigitsRun(home / "through", *BACKBONES[request.param])
    with ended(through):
        assert through.wait(300) == 0, through.output
    for step in (9, 30):  # in both epochs
        one = DigitsRun(home / "killed", *BACKBONES[request.param])
        with ended(one):
            one.wait_for_step(step)
            one.send(signal.SIGKILL)
            assert one.wait() == -signal.SIGKILL
    last = DigitsRun(home / "killed", *BACKBONES[request.param])
    with ended(last):
        assert last.wait(300) == 0 and "continuing after step" in last.output, last.output
    assert content(last.run) == content(through.run)
    return request.param, home / "killed"


def command(trained, *arguments):
    result = run_forked(*arguments, cwd=trained[1], timeout=300)
    assert result.returncode == 0, result.stderr + result.stdout
    return result


def test_a_run_killed_twice_is_evaluated_as_in_training(trained):
    summary = json.loads((trained[1] / "runs/run/summary.json").read_text())
    command(trained, "dat-eval", "ckpt=runs/run/checkpoints/last.pt", "data.workers=0", "device=cpu", "output=report")
    report = json.loads((trained[1] / "report/result.json").read_text())
    assert report["top1"] == pytest.approx(summary["final_top1"]) and report["images"] > 300
    assert summary["final_top1"] > 20  # of ten classes, after two epochs


def test_onnxruntime_gives_the_logits_of_the_model(trained):
    command(trained, "dat-export", "ckpt=runs/run", "format=onnx", "validate=false")
    model = open_trained(trained[1] / "runs/run", device="cpu").model
    images = torch.randn(3, 3, 32, 32)
    session = onnxruntime.InferenceSession(trained[1] / "runs/run/export/onnx/model.onnx")
    (logits,) = session.run(None, {"images": images.numpy()})
    with torch.inference_mode():
        assert torch.allclose(model(images), torch.from_numpy(logits), atol=1e-4, rtol=1e-4)


def test_checkpoints_are_averaged(trained):
    files = [f"runs/run/checkpoints/{name}.pt" for name in ("best", "last")]
    command(trained, "dat-average", *files, "output=average.pt", "data.workers=0", "device=cpu")
    states = [Checkpoint.open(trained[1] / path).content["model"] for path in (*files, "average.pt")]
    name = max(states[0], key=lambda name: states[0][name].numel())
    assert torch.allclose(states[2][name], (states[0][name] + states[1][name]) / 2, atol=1e-6)


def test_speed_and_memory_are_measured(trained):
    names = [argument for argument in BACKBONES[trained[0]] if argument.startswith(("model=", "model.timm_name="))]
    measuring = ["batch_size=2", "repeats=1", "warmup=0", "threads=1", "json=bench.json"]
    command(trained, "dat-bench", *names, *measuring)
    rows = json.loads((trained[1] / "bench.json").read_text())["results"]
    assert {row["mode"] for row in rows} == {"inference", "training"}


def test_offsets_are_refused_in_one_line(trained):
    photo = next((trained[1] / "data/digits/val").rglob("*.png"))
    result = run_forked("dat-visualize", "ckpt=runs/run", f"image={photo}", cwd=trained[1])
    assert result.returncode == 2 and result.stderr.count("\n") == 1
    assert "has no deformable attention" in result.stderr


# Pretrained weights of timm

HUB_NAME = "models--timm--test_resnet.r160_in1k"


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """A folder with images, and a cache of the Hugging Face hub with weights of test_resnet for 1000 classes."""
    home = tmp_path_factory.mktemp("pretrained")
    for split in ("train", "val"):
        for name in ("a", "b"):
            for number in range(2):
                write_image(home / "images" / split / name / f"{number}.jpg")
    torch.manual_seed(1)
    snapshot = home / "cache/hub" / HUB_NAME / "snapshots/1"
    snapshot.mkdir(parents=True)
    save_file(timm.create_model("test_resnet").state_dict(), snapshot / "model.safetensors")
    (home / "cache/hub" / HUB_NAME / "refs").mkdir()
    (home / "cache/hub" / HUB_NAME / "refs/main").write_text("1", encoding="utf-8")
    return home


def train(home, name, *settings, cache="cache"):
    still = ["optim.lr=0", "schedule.warmup_lr=0", "schedule.min_lr=0", "schedule.warmup_epochs=0", "epochs=1"]
    return run(
        "dat-train", "model=timm", "model.timm_name=test_resnet", "init=timm", "data=folder", "data.root=images",
        "batch_size=4", "micro_batch_size=4", "data.workers=0", "device=cpu", f"name={name}", *still, *settings,
        cwd=home, HF_HOME=str(home / cache), HF_HUB_OFFLINE="1",
    )  # fmt: skip


def test_init_timm_takes_weights_and_preprocessing_of_the_model_in_timm(pretrained):
    result = train(pretrained, "taken")
    assert result.returncode == 0, result.stderr
    assert "1000 classes, the model 2: a newly initialized one stays" in result.stdout.replace("\n", " ")
    checkpoint = Checkpoint.open(pretrained / "runs/taken/checkpoints/last.pt")
    torch.manual_seed(1)
    weights = timm.create_model("test_resnet").state_dict()
    name = timm.get_pretrained_cfg("test_resnet").first_conv + ".weight"
    assert torch.equal(checkpoint.content["model"][name], weights[name])

    known, config = timm.get_pretrained_cfg("test_resnet"), checkpoint.config
    assert (config["img_size"], config["model"]["img_size"]) == (known.input_size[-1],) * 2 == (160, 160)
    assert (config["data"]["mean"], config["data"]["std"]) == (list(known.mean), list(known.std))
    assert config["eval"]["crop_pct"] == known.crop_pct and config["eval"]["interpolation"] == known.interpolation


def test_the_preprocessing_of_timm_may_be_replaced(pretrained):
    settings = ["img_size=64", "data.mean=[0.1,0.2,0.3]", "eval.crop_pct=0.7", "eval.interpolation=bilinear"]
    result = train(pretrained, "replaced", *settings)
    assert result.returncode == 0, result.stderr
    config = Checkpoint.open(pretrained / "runs/replaced/checkpoints/last.pt").config
    assert (config["img_size"], config["data"]["mean"]) == (64, [0.1, 0.2, 0.3])
    assert (config["eval"]["crop_pct"], config["eval"]["interpolation"]) == (0.7, "bilinear")
    assert config["data"]["std"] == list(timm.get_pretrained_cfg("test_resnet").std)


def test_weights_that_cannot_be_reached_are_one_line(pretrained):
    result = train(pretrained, "unreachable", cache="empty")
    assert result.returncode == 2 and result.stderr.count("\n") == 1
    assert "the pretrained weights of test_resnet in timm cannot be loaded" in result.stderr
