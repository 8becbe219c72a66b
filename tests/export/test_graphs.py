"""Every kind of block can be exported; a file that differs from its model is not written."""

import onnx
import pytest
import timm
import torch

import dat_train.models  # noqa: F401  registers the models
from dat_train.errors import UserError
from dat_train.export.onnx_file import OnnxModel, write_int8, write_onnx
from dat_train.export.torch_export_file import compare, compared_shapes, write_program

SMALL = {"dims": (8, 16, 16, 24), "depths": (1, 1, 1, 1), "num_heads": (1, 2, 2, 3), "groups": (1, 2, 1, 3)}


@pytest.mark.long
def test_neighborhoods_convolutional_stem_and_strided_offsets_as_onnx(tmp_path):
    stages = {"dims": (8, 16), "depths": (1, 1), "num_heads": (1, 2), "groups": (1, 2)}
    model = timm.create_model("datpp_tiny", num_classes=5, img_size=64, blocks=("N", "D"), **stages).eval()
    assert write_onnx(model, tmp_path / "m.onnx", (3, 64, 64), {}) < 1e-4
    write_int8(tmp_path / "m.onnx", tmp_path / "q.onnx")
    images = torch.randn(3, 3, 64, 64)
    assert torch.allclose(OnnxModel(tmp_path / "q.onnx")(images), model(images), atol=0.2)
    assert onnx.load(tmp_path / "m.onnx").graph.input[0].type.tensor_type.shape.dim[0].dim_param


@pytest.mark.slow
@pytest.mark.parametrize("bias", ["fixed", "log_cpb", "dwc", "none"])
def test_every_position_bias_as_onnx(bias, tmp_path):
    model = timm.create_model(
        "dat_nano", num_classes=5, position_bias=bias, blocks=("S", "D", "D", "D"), **SMALL
    ).eval()
    assert write_onnx(model, tmp_path / "m.onnx", (3, 32, 48), {}) < 1e-4  # not square


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dat_tiny", "datpp_tiny"])
def test_published_sizes_as_onnx(name, tmp_path):
    model = timm.create_model(name).eval()
    assert write_onnx(model, tmp_path / "m.onnx", (3, 224, 224), {}) < 1e-4


def test_a_different_output_is_an_error_and_no_file_is_written(tmp_path, monkeypatch):
    model = timm.create_model("dat_nano", num_classes=5, blocks=("L", "D", "D", "D"), **SMALL).eval()
    other = timm.create_model("dat_nano", num_classes=5, blocks=("L", "D", "D", "D"), **SMALL).eval()
    with pytest.raises(UserError, match=r"differ by .* from PyTorch's, more than "):
        compare(other, model, compared_shapes((3, 32, 32)), tmp_path / "m.onnx")
    nan = torch.nn.Module()
    nan.forward = lambda images: model(images) * float("nan")
    with pytest.raises(UserError, match="differ by nan"):
        compare(nan, model, compared_shapes((3, 32, 32)), tmp_path / "m.onnx")
    monkeypatch.setattr("dat_train.export.torch_export_file.TOLERANCE", -1.0)
    with pytest.raises(UserError):
        write_program(model, tmp_path / "m.pt2", (3, 32, 32), {})
    assert list(tmp_path.iterdir()) == []
