"""All formats for one channel, and for backbones of timm."""

import json

import onnx
import onnxruntime
import pytest
import timm
import torch
from torch import nn

import dat_train.models  # noqa: F401  registers the models
from dat_train.export.model_card import model_card
from dat_train.export.onnx_file import write_onnx
from dat_train.export.preprocessing import Preprocessing
from dat_train.export.timm_folder import load_timm_folder, write_timm_folder
from dat_train.export.torch_export_file import ProgramModel, write_program

CLASSES = ["a", "b|c", "line\nbreak", "bytes \udcff", "犬"]
DAT = {"dims": (8, 16, 16, 24), "depths": (1, 1, 1, 1), "heads": (1, 2, 2, 3), "groups": (1, 2, 1, 3)}
SWIN = {"embed_dim": 16, "depths": (1, 1, 1, 1), "num_heads": (1, 2, 2, 4), "img_size": 64}
MODELS = {
    "dat_nano": (DAT, 32),
    "resnet18": ({}, 64),
    "swin_tiny_patch4_window7_224": (SWIN, 64),
}


def build_model(name: str, channels: int) -> tuple[nn.Module, Preprocessing]:
    """A model with random weights and statistics, and its preprocessing."""
    arguments, size = MODELS[name]
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=len(CLASSES), in_chans=channels, **arguments)
    with torch.no_grad():
        model(torch.randn(8, channels, size, size))  # running averages of batch normalization, where there is one
    mean, std = (0.5, 0.4, 0.3)[:channels], (0.2, 0.25, 0.3)[:channels]
    steps = Preprocessing(size, "short_side", 0.9, "bicubic", mean=mean, std=std)
    return model.eval(), steps


@pytest.mark.long
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", MODELS)
def test_timm_onnxruntime_and_torch_export_give_the_logits_of_the_model(name, channels, tmp_path):
    model, steps = build_model(name, channels)
    images = torch.randn(3, *steps.input_size)
    with torch.inference_mode():
        logits = model(images)

    card = model_card(model, name=name, classes=CLASSES, preprocessing=steps, properties=[("weights", "random")])
    write_timm_folder(model, tmp_path, CLASSES, steps, card)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["pretrained_cfg"]["input_size"] == list(steps.input_size) and config["label_names"] == CLASSES
    with torch.inference_mode():
        assert torch.equal(load_timm_folder(tmp_path)(images), logits)

    notes = {"preprocessing.json": steps.as_json(CLASSES)}
    write_onnx(model, tmp_path / "m.onnx", steps.input_size, notes)
    session = onnxruntime.InferenceSession(str(tmp_path / "m.onnx"), providers=["CPUExecutionProvider"])
    for batch in (1, 3):
        (found,) = session.run(None, {"images": images[:batch].numpy()})
        assert torch.allclose(torch.from_numpy(found), logits[:batch], atol=1e-4, rtol=1e-4)
    stored = json.loads(onnx.load(tmp_path / "m.onnx").metadata_props[0].value)
    assert stored["channels"] == {1: "L", 3: "RGB"}[channels] and stored["classes"] == CLASSES

    write_program(model, tmp_path / "m.pt2", steps.input_size, notes)
    assert torch.allclose(ProgramModel(tmp_path / "m.pt2")(images), logits, atol=1e-4, rtol=1e-4)


def test_the_card_describes_backbone_and_channels():
    model, steps = build_model("resnet18", 1)
    card = model_card(model, name="mine", classes=CLASSES, preprocessing=steps, properties=[])
    assert 'convert("L")' in card and "Grayscale, resized" in card and "(`resnet18`)" in card
    assert "Deformable" not in card and "import dat_train" not in card and "arXiv" not in card
    assert "`line break`" in card
    model, steps = build_model("dat_nano", 3)
    card = model_card(model, name="mine", classes=CLASSES, preprocessing=steps, properties=[])
    assert (
        'convert("RGB")' in card and "A Deformable Attention Transformer" in card and "import dat_train.models" in card
    )
