"""Fine-tuning, frozen modules and distillation by the commands."""

import re
import shutil
from pathlib import Path

import pytest
import timm
import torch
from commands.in_process import composed, train
from commands.running import run_here
from safetensors.torch import save_file

from dat_train.commands.build_model import build_model
from dat_train.commands.build_task import objective
from dat_train.data.dataset import ImageDataset
from dat_train.data.generated.digits import write_digits
from dat_train.errors import UserError
from dat_train.models.weights.checkpoint import Checkpoint
from dat_train.runtime.precision import resolve_precision

SMALL = "++model.args={dims:[16,32,48,80],depths:[1,2,2,2]}"  # a narrower dat_nano
TINY = "++model.args={dims:[8,16,16,24],depths:[1,1,2,1],heads:[1,2,2,3],groups:[1,2,2,3]}"
FAKE = (
    "model=dat_nano", "data=fake", "data.fake_images=16", "data.fake_classes=4", "data.val_fraction=0.25",
    "batch_size=4", "micro_batch_size=2", "epochs=2", "schedule.warmup_epochs=1", "augment=none",
    "model.drop_path_rate=0.2", TINY,
)  # fmt: skip
STILL = ("optim.lr=0", "schedule.warmup_lr=0", "schedule.min_lr=0")  # a step that leaves the weights where they are


def weights(run: Path) -> dict[str, torch.Tensor]:
    return Checkpoint.open(run / "checkpoints" / "last.pt").content["model"]


@pytest.fixture(scope="module")
def halves(tmp_path_factory):
    """The digits 0 to 4 and 5 to 9 as image folders."""
    root = tmp_path_factory.mktemp("digits")
    digits = write_digits(root / "all", val_fraction=0.2, split_seed=0)
    for part in ("train", "val"):
        for digit in range(10):
            shutil.copytree(digits / part / str(digit), root / ("low" if digit < 5 else "high") / part / str(digit))
    return root


@pytest.mark.long
def test_fine_tuning_on_other_digits_beats_training_from_scratch(halves, tmp_path):
    """Fine-tuning beats training from scratch at equal steps."""
    learning = (
        "experiment=digits", "data=folder", "batch_size=32", "micro_batch_size=32", "augment=none", SMALL,
        "data.mean=[0.5,0.5,0.5]", "data.std=[0.5,0.5,0.5]", "schedule.warmup_epochs=0", "eval.every_epochs=99",
    )  # fmt: skip
    train(tmp_path, "low", *learning, f"data.root={halves / 'low'}", "epochs=3")
    equal = (*learning, f"data.root={halves / 'high'}", "epochs=1", "max_steps=8", "seed=1")
    scratch = train(tmp_path, "scratch", *equal)
    tuned = train(tmp_path, "tuned", *equal, f"init={tmp_path / 'low/checkpoints/best.pt'}")
    assert scratch["steps"] == tuned["steps"] == 8
    assert tuned["final_top1"] > scratch["final_top1"] + 15, (scratch["final_top1"], tuned["final_top1"])


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """Weights of a tiny model with seven classes, as this project's checkpoint, safetensors and timm folder."""
    folder = tmp_path_factory.mktemp("start")
    train(folder, "seven", *FAKE, "data.fake_classes=7", "max_steps=1")
    model = build_model(composed(*FAKE), 7)
    model.load_state_dict(weights(folder / "seven"))
    save_file(model.state_dict(), folder / "weights.safetensors")
    timm.models.save_for_hf(model, folder / "timm")
    return folder


@pytest.mark.parametrize("source", ["seven/checkpoints/last.pt", "weights.safetensors", "local-dir:timm"])
def test_every_form_of_weights_starts_a_run_with_other_classes_resolution_and_channels(source, start, tmp_path, capsys):
    kind, colon, name = source.rpartition(":")
    other = ("model.img_size=64", "img_size=48", "data.mean=[0.5]", "data.std=[0.25]", *STILL, "max_steps=1")
    train(tmp_path, "run", *FAKE, *other, f"init='{kind}{colon}{start / name}'")
    output = capsys.readouterr().out
    assert (
        "7 classes, the model 4: a newly initialized one stays" in output
        and "adapted the stem from 3 to 1 channels" in output
    )
    assert "resized table" in output
    before, after = weights(start / "seven"), weights(tmp_path / "run")
    assert after["head.fc.weight"].shape == (4, 24) and after["stem.conv.weight"].shape[1] == 1
    assert torch.equal(before["stages.2.blocks.1.attn.kv.weight"], after["stages.2.blocks.1.attn.kv.weight"])


def test_classes_of_other_names_get_a_new_classifier(start, tmp_path, capsys):
    model = build_model(composed(*FAKE), 4)
    content = {"model": model.state_dict(), "classes": ["a", "b", "c", "d"]}
    torch.save(content, tmp_path / "named.pt")
    train(tmp_path, "run", *FAKE, f"init={tmp_path / 'named.pt'}", "max_steps=1", "seed=3", *STILL)
    assert "the file's classes have other names: a newly initialized classifier stays" in capsys.readouterr().out
    after = weights(tmp_path / "run")
    assert torch.equal(after["stem.conv.weight"], model.stem.conv.weight)
    assert not torch.equal(after["head.fc.weight"], model.head.fc.weight)


def test_frozen_parts_stay_as_they_were_and_the_rest_learns(start, tmp_path):
    train(tmp_path, "run", *FAKE, f"init={start / 'weights.safetensors'}", "freeze=[stem,stages.0]", "max_steps=3")
    before, after = weights(start / "seven"), weights(tmp_path / "run")
    frozen = {name for name in before if name.startswith(("stem.", "stages.0."))}
    assert all(torch.equal(before[name], after[name]) for name in frozen)
    changed = {name for name in before.keys() - frozen if not name.startswith("head.")}
    assert all(not torch.equal(before[name], after[name]) for name in changed)


def test_a_linear_probe_changes_the_classifier_alone(start, tmp_path):
    probe = [setting for setting in FAKE if not setting.startswith("augment")]
    train(tmp_path, "run", *probe, "experiment=linear_probe", f"init={start / 'weights.safetensors'}", "max_steps=2")
    before, after = weights(start / "seven"), weights(tmp_path / "run")
    assert all(torch.equal(before[name], after[name]) for name in before if not name.startswith("head."))


DISTILL = {
    "ours": "distill.weights={start}/four/checkpoints/last.pt",
    "timm": "distill.teacher=resnet10t distill.weights={start}/resnet.safetensors distill.kind=soft",
}


@pytest.fixture(scope="module")
def teachers(start):
    train(start, "four", *FAKE, "max_steps=1", "seed=5")
    torch.manual_seed(0)
    save_file(timm.create_model("resnet10t", num_classes=4).state_dict(), start / "resnet.safetensors")
    return {kind: text.format(start=start).split() for kind, text in DISTILL.items()}


@pytest.mark.parametrize("kind", DISTILL)
def test_a_distilled_run_resumes_exactly(kind, teachers, tmp_path):
    settings = (*FAKE, *teachers[kind], "optim.layer_decay=0.7", "optim.head_lr_factor=3", "freeze=[stem]")
    for name, stops in {"through": (4,), "twice": (3, 4)}.items():
        for steps in stops:
            train(tmp_path, name, *settings, f"max_steps={steps}")
    through, twice = (Checkpoint.open(tmp_path / name / "checkpoints/last.pt").content for name in ("through", "twice"))
    assert all(torch.equal(through["model"][name], twice["model"][name]) for name in through["model"])
    assert str(through["optimizer"]["state"]) == str(twice["optimizer"]["state"])
    plain = train(
        tmp_path, "plain", *FAKE, "optim.layer_decay=0.7", "optim.head_lr_factor=3", "freeze=[stem]", "max_steps=4"
    )
    assert plain["steps"] == 4
    assert not torch.equal(weights(tmp_path / "plain")["head.fc.weight"], through["model"]["head.fc.weight"])


@pytest.mark.long
def test_the_memory_of_a_distilled_run_includes_the_teacher(teachers, tmp_path):
    arguments = (*FAKE, *teachers["timm"], "max_steps=1", "device=cpu", "data.workers=0", "img_size=32")
    done = run_here("dat-train", *arguments, "model.img_size=32", "eval.crop_pct=1", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("  memory ")]
    assert re.search(r"weights \S+ MB, gradients .*, optimizer .*, teacher 2\d MB, activations", line), line


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("distill.teacher=resnet10x", "distill.teacher=resnet10x is not a model of timm; did you mean resnet10t"),
        ("distill.teacher=resnet10t distill.weights={start}/absent.pt", "absent.pt: no such file"),
        ("distill.weights={start}/seven/checkpoints/last.pt", "has other classes: 0, 1, 2"),
        ("distill.weights={start}/weights.safetensors", "has no training settings"),
        (
            "distill.teacher=vit_tiny_patch16_224 distill.weights={start}/vit.safetensors",
            "does not take images of 3 x 32 x 32",
        ),
        ("distill.teacher=resnet10t distill.weights={start}/weights.safetensors", "belongs to another architecture"),
    ],
)
def test_an_unsuitable_teacher_is_refused_in_one_line(settings, message, start):
    if "vit" in settings:
        save_file(timm.create_model("vit_tiny_patch16_224", num_classes=4).state_dict(), start / "vit.safetensors")
    config = composed(*FAKE, *settings.format(start=start).split())
    with pytest.raises(UserError) as caught:
        objective(config, ImageDataset([], ["0", "1", "2", "3"]), resolve_precision("fp32", torch.device("cpu")))
    assert message in str(caught.value) and "\n" not in str(caught.value)
