"""dat-export: timm, onnxruntime and torch.export give the logits of the checkpoint; classes and preprocessing."""

import json
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import onnxruntime
import pytest
import timm
import torch
from commands.fitted_checkpoint import write_fitted_checkpoint
from commands.running import run_here
from commands.small_checkpoint import write_small_checkpoint
from huggingface_hub import ModelCard
from PIL import Image

from dat_train.commands.load_trained import open_trained
from dat_train.data.storages.sources import open_datasets

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run folder with a checkpoint that classifies most digits correctly."""
    folder = tmp_path_factory.mktemp("runs") / "digits"
    write_fitted_checkpoint(folder, "epochs=3", "optim.name=lamb")
    return folder


@pytest.fixture(scope="module")
def digits(run):
    """(images, labels) of the validation set, preprocessed."""
    transform = open_trained(run / "checkpoints/best.pt").transform
    _, val_set = open_datasets("folder", run / "digits")
    images = torch.stack([transform(val_set.read(index)) for index in range(len(val_set))])
    return images, np.array([label for _, label in val_set.samples])


@pytest.fixture(scope="module")
def logits(run, digits):
    """Logits of PyTorch on the validation set."""
    model = open_trained(run / "checkpoints/best.pt", device="cpu").model
    with torch.inference_mode():
        return model(digits[0])


def ckpt(run: Path) -> str:
    return f"ckpt={run}/checkpoints/best.pt"


# safetensors


@pytest.fixture(scope="module")
def folder(run):
    result = run_here("dat-export", ckpt(run), cwd=run)
    assert result.returncode == 0, result.stderr
    return run / "export" / "safetensors"


def test_timm_loads_the_folder_with_equal_logits(folder, digits, logits):
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    with torch.inference_mode():
        assert torch.equal(model(digits[0]), logits)
    assert model.pretrained_cfg["label_names"] == [str(digit) for digit in range(10)]
    assert timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=3)(digits[0][:2]).shape == (2, 3)


def test_the_hub_library_reads_the_card_and_its_facts(folder):
    card = ModelCard((folder / "README.md").read_text())
    assert card.data.library_name == "timm" and card.data.pipeline_tag == "image-classification"
    assert "`dat_nano`" in card.text and "lamb, learning rate 0.002" in card.text


def test_the_code_in_the_card_runs_unchanged(folder, run):
    code = (folder / "README.md").read_text().partition("```python\n")[2].partition("```")[0]
    image = next((run / "digits/val/7").glob("*.png"))
    code = code.replace("PATH/TO/THIS/FOLDER", str(folder)).replace("image.jpg", str(image))
    name, probability = subprocess.check_output([sys.executable, "-c", code], text=True).split()
    row = (
        run_here("dat-predict", ckpt(run), str(image), "top=1", "format=csv", cwd=run).stdout.splitlines()[1].split(",")
    )
    assert row[1] == name and float(row[2]) == pytest.approx(float(probability), abs=1e-6)


def test_an_exported_folder_can_be_evaluated_and_exported_again(folder, run, logits, digits):
    result = run_here("dat-eval", f"ckpt={folder}", "data=digits", f"data.root={run}/digits", "output=e", cwd=run)
    assert result.returncode == 0, result.stderr
    top1 = json.loads((run / "e/result.json").read_text())["top1"]
    assert top1 == 100 * (logits.argmax(1).numpy() == digits[1]).mean() > 60
    assert run_here("dat-export", f"ckpt={folder}/model.safetensors", "output=again", cwd=run).returncode == 0
    for name in ("model.safetensors", "config.json"):
        assert (run / "again" / name).read_bytes() == (folder / name).read_bytes()


# ONNX


@pytest.fixture(scope="module")
def onnx_folder(run):
    result = run_here("dat-export", ckpt(run), "format=onnx", "int8=true", cwd=run)
    assert result.returncode == 0, result.stderr
    assert "top-1" in result.stdout
    return run / "export" / "onnx"


def onnx_logits(path: Path, images: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {"images": images})[0]


def test_onnxruntime_predicts_the_same_classes_on_the_validation_set(onnx_folder, digits, logits):
    images, labels = digits
    found = onnx_logits(onnx_folder / "model.onnx", images.numpy())  # all 359 in one batch
    assert np.abs(found - logits.numpy()).max() < 1e-4
    assert (found.argmax(1) == logits.argmax(1).numpy()).all() and (found.argmax(1) == labels).mean() > 0.6
    one = onnx_logits(onnx_folder / "model.onnx", images[:1].numpy())
    assert np.abs(one - logits[:1].numpy()).max() < 1e-4


def test_int8_weights_have_8_bits_and_the_accuracy_is_measured(onnx_folder, digits):
    kinds = {node.op_type for node in onnx.load(onnx_folder / "model.int8.onnx").graph.node}
    assert "MatMulInteger" in kinds and "GridSample" in kinds
    images, labels = digits
    pytorch, plain, small = json.loads((onnx_folder / "accuracy.json").read_text())
    found = onnx_logits(onnx_folder / "model.int8.onnx", images.numpy()).argmax(1)
    # activations share a scale over a batch, so results depend slightly on the batch size
    assert small["top1"] == pytest.approx(100 * (found == labels).mean(), abs=2)
    assert plain["top1"] == pytorch["top1"] and plain["other_predictions"] == 0
    assert pytorch["top1"] - small["top1"] < 5 and small["images"] == len(labels)


def test_preprocessing_json_suffices_to_reproduce_the_logits(onnx_folder, run, logits):
    """With Pillow and NumPy only."""
    steps = json.loads((onnx_folder / "preprocessing.json").read_text())
    _, val_set = open_datasets("folder", run / "digits")
    inputs = []
    for path, _ in val_set.samples:
        image = Image.open(path).convert(steps["channels"])
        side = steps["resize"]["short_side"]
        assert steps["resize"]["keep_aspect_ratio"] and image.width == image.height
        image = image.resize((side, side), Image.Resampling[steps["resize"]["interpolation"].upper()])
        margin = (side - steps["center_crop"]) // 2
        image = image.crop((margin, margin, margin + steps["center_crop"], margin + steps["center_crop"]))
        x = np.asarray(image, np.float32) / steps["divide_by"]
        x = (x - np.float32(steps["then_subtract_mean"])) / np.float32(steps["then_divide_by_std"])
        inputs.append(x.transpose(2, 0, 1))
    found = onnx_logits(onnx_folder / "model.onnx", np.stack(inputs))
    assert np.abs(found - logits.numpy()).max() < 1e-3
    assert steps["classes"] == [str(digit) for digit in range(10)]


def test_the_onnx_metadata_hold_classes_and_preprocessing(onnx_folder):
    notes = {item.key: item.value for item in onnx.load(onnx_folder / "model.onnx").metadata_props}
    assert json.loads(notes["classes.json"]) == [str(digit) for digit in range(10)]
    assert json.loads(notes["preprocessing.json"]) == json.loads((onnx_folder / "preprocessing.json").read_text())


# torch.export


def test_a_program_runs_without_this_package(run, digits, logits, tmp_path):
    assert run_here("dat-export", ckpt(run), "format=torch_export", "validate=true", cwd=run).returncode == 0
    pytorch, program = json.loads((run / "export/torch_export/accuracy.json").read_text())
    assert program["top1"] == pytorch["top1"] and program["other_predictions"] == 0
    torch.save(digits[0][:7], tmp_path / "images.pt")
    code = (
        "import sys, torch\n"
        "notes = {'classes.json': ''}\n"
        "model = torch.export.load(sys.argv[1], extra_files=notes).module()\n"
        "images = torch.load('images.pt')\n"
        "torch.save([model(images), model(images[:1])], 'logits.pt')\n"
        "assert not any(name.startswith(('dat_train', 'timm')) for name in sys.modules)\n"
        "print(notes['classes.json'])"
    )
    arguments = [sys.executable, "-c", code, run / "export/torch_export/model.pt2"]
    names = subprocess.check_output(arguments, cwd=tmp_path, text=True)
    seven, one = torch.load(tmp_path / "logits.pt")
    assert torch.allclose(seven, logits[:7], atol=1e-5) and torch.allclose(one, logits[:1], atol=1e-5)
    assert json.loads(names) == [str(digit) for digit in range(10)]


# Errors


class Wrong(NamedTuple):
    arguments: tuple[str, ...]
    message: str


@pytest.mark.parametrize(
    "wrong",
    [
        Wrong(("int8=true",), "int8=true is for format=onnx"),
        Wrong(("format=onxx",), "format=onxx must be one of safetensors, onnx, torch_export"),
        Wrong(("validate=true", "data=fake"), "data=fake has classes 0 to 999, which are not the model's classes"),
        Wrong(("validate=true", "data=folder", "data.root=nowhere"), "data.root=nowhere does not exist"),
        Wrong(("output=config.yaml",), "output=config.yaml cannot be written (Not a directory); set output=FOLDER"),
        Wrong(("ema=true",), "has no averaged weights"),
    ],
    ids=lambda wrong: " ".join(wrong.arguments),
)
def test_errors_are_one_line(wrong, run):
    result = run_here("dat-export", ckpt(run), *wrong.arguments, cwd=run)
    assert result.returncode == 2 and result.stderr.count("\n") == 1, result.stderr
    assert wrong.message in result.stderr


def test_a_missing_onnx_package_is_reported(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    result = run_here("dat-export", ckpt(run), "format=onnx", cwd=run)
    assert result.returncode == 2 and "onnxscript, which is not installed: pip install" in result.stderr


# One channel


@pytest.fixture(scope="module")
def gray(tmp_path_factory):
    """A run folder with a checkpoint of a one-channel model, and an image."""
    folder = tmp_path_factory.mktemp("gray")
    write_small_checkpoint(folder / "checkpoints/best.pt", "data.mean=[0.4]", "data.std=[0.3]")
    (folder / "config.yaml").touch()
    Image.radial_gradient("L").resize((32, 32)).save(folder / "image.png")
    return folder


def gray_image(folder: Path) -> torch.Tensor:
    x = torch.from_numpy(np.array(Image.open(folder / "image.png").convert("L"), np.float32)) / 255
    return ((x - 0.4) / 0.3)[None, None]


def test_a_one_channel_model_is_exported_in_all_formats(gray):
    want = open_trained(gray / "checkpoints/best.pt", device="cpu").model(gray_image(gray)).detach()
    for format in ("safetensors", "onnx", "torch_export"):
        result = run_here("dat-export", ckpt(gray), f"format={format}", "eval.crop_pct=1", cwd=gray)
        assert result.returncode == 0, result.stderr
    export = gray / "export"
    steps = json.loads((export / "onnx/preprocessing.json").read_text())
    assert steps["channels"] == "L" and steps["grayscale"] and steps["input"]["shape"] == ["batch", 1, 32, 32]
    found = onnx_logits(export / "onnx/model.onnx", gray_image(gray).numpy())
    assert np.abs(found - want.numpy()).max() < 1e-4
    program = torch.export.load(export / "torch_export/model.pt2").module()
    assert torch.allclose(program(gray_image(gray)), want, atol=1e-5)
    model = timm.create_model(f"local-dir:{export}/safetensors", pretrained=True).eval()
    assert torch.equal(model(gray_image(gray)), want)


def test_an_exported_one_channel_folder_predicts_and_is_exported_again(gray):
    folder = gray / "export/safetensors"
    rows = [
        run_here("dat-predict", name, "image.png", "eval.crop_pct=1", "format=csv", cwd=gray)
        for name in (f"ckpt={folder}", ckpt(gray))
    ]
    assert rows[0].returncode == 0 and rows[0].stdout == rows[1].stdout, rows[0].stderr
    result = run_here("dat-export", f"ckpt={folder}", "output=again", cwd=gray)
    assert result.returncode == 0, result.stderr
    assert (gray / "again/config.json").read_bytes() == (folder / "config.json").read_bytes()


def test_a_failed_export_leaves_the_earlier_one(gray, monkeypatch):
    before = {path.name: path.read_bytes() for path in (gray / "export/onnx").iterdir()}
    monkeypatch.setattr("dat_train.export.torch_export_file.TOLERANCE", -1.0)
    result = run_here("dat-export", ckpt(gray), "format=onnx", cwd=gray)
    assert result.returncode == 2 and "nothing was written" in result.stderr
    assert {path.name: path.read_bytes() for path in (gray / "export/onnx").iterdir()} == before
    assert not list((gray / "export").glob(".*"))
