"""Weights written by other programs: averaged weights, prefixes of larger models, and files that are no weights."""

import argparse
from types import SimpleNamespace

import numpy as np
import pytest
import timm
import torch
from golden import FOLDER, build
from models.weights.test_loading import golden_config
from safetensors.torch import save_file
from timm.utils import CheckpointSaver, ModelEmaV3
from troubleshooting import entry

from dat_train.errors import UserError
from dat_train.models import Checkpoint, load_weights


def nano(**kwargs):
    return timm.create_model("dat_nano", num_classes=4, depths=(1, 1, 1, 1), **kwargs).eval()


def assert_same(model, other):
    state = other.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_a_training_checkpoint_of_timm_has_plain_and_averaged_weights(tmp_path):
    plain, averaged = nano(), ModelEmaV3(nano())
    saver = CheckpointSaver(
        plain,
        torch.optim.SGD(plain.parameters(), lr=0.1),
        args=argparse.Namespace(model="dat_nano", lr=0.1),
        model_ema=averaged,
        checkpoint_dir=str(tmp_path),
        recovery_dir=str(tmp_path),
    )
    saver.save_checkpoint(0, metric=50.0)
    path = tmp_path / "checkpoint-0.pth.tar"
    for ema, want in ((False, plain), (True, averaged.module), (None, averaged.module)):
        model = nano()
        report = load_weights(model, path, ema=ema)
        assert_same(model, want)
        assert ("state_dict_ema" in report.source) == (ema is not False)


@pytest.mark.parametrize("key", ["model_ema", "ema_state_dict", "ema_model", "teacher"])
def test_averaged_weights_are_found_under_the_usual_names(key, tmp_path):
    plain, averaged = nano(), nano()
    state = averaged.state_dict()
    if key == "ema_model":
        state = {"state_dict": state}
    if key == "model_ema":  # as torch.optim.swa_utils.AveragedModel names them
        state = {f"module.{name}": value for name, value in state.items()} | {"n_averaged": torch.tensor(3)}
    torch.save({"model": plain.state_dict(), key: state}, tmp_path / "a.pth")
    model = nano()
    load_weights(model, tmp_path / "a.pth", ema=True)
    assert_same(model, averaged)
    load_weights(model, tmp_path / "a.pth", ema=False)
    assert_same(model, plain)


def test_a_checkpoint_with_averaged_weights_alone(tmp_path):
    source, model = nano(), nano()
    torch.save({"teacher": source.state_dict(), "epoch": 3}, tmp_path / "a.pth")
    load_weights(model, tmp_path / "a.pth", ema=False)
    assert_same(model, source)


@pytest.mark.parametrize("prefix", ["model.", "encoder.", "net.student.", "module.", "_orig_mod.module.", "backbone."])
def test_a_prefix_common_to_all_names_is_removed_and_reported(prefix, tmp_path):
    source, model = nano(), nano()
    state = {f"{prefix}{name}": value for name, value in source.state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "a.ckpt")
    report = load_weights(model, tmp_path / "a.ckpt")
    assert_same(model, source)
    assert "removed the prefix" in str(report) and report.classes == 4


def test_the_backbone_of_a_larger_model_is_taken_and_the_rest_is_reported(tmp_path):
    source, model = nano(), nano()
    state = {f"model.{name}": value for name, value in source.state_dict().items()}
    torch.save({"state_dict": state | {"criterion.weight": torch.ones(4)}}, tmp_path / "lightning.ckpt")
    report = load_weights(model, tmp_path / "lightning.ckpt")
    assert_same(model, source)
    assert "under model., left out 1 others (criterion.weight, ...)" in str(report)


def test_the_published_backbone_of_a_detector_starts_a_classifier(tmp_path):
    """As mmdetection writes it: backbone.*, with a norm for each map instead of the last one, neck and heads."""
    released = Checkpoint.open(FOLDER / "official_dat_cvpr_micro.pth").content["model"]
    inner = {name: value for name, value in released.items() if not name.startswith(("cls_norm", "cls_head"))}
    state = {f"backbone.{name}": value for name, value in inner.items()}
    state |= {"backbone.norms.0.norm.weight": torch.ones(8), "bbox_head.fc.weight": torch.ones(3, 3)}
    torch.save({"state_dict": state, "meta": {"epoch": 12}, "optimizer": {}}, tmp_path / "detector.pth")
    model, want = build(golden_config("dat_cvpr_micro")), build(golden_config("dat_cvpr_micro"))
    report = load_weights(model, tmp_path / "detector.pth")
    load_weights(want, FOLDER / "official_dat_cvpr_micro.pth")
    assert torch.equal(model.stages[2].blocks[1].attn.bias.table, want.stages[2].blocks[1].attn.bias.table)
    assert "final norm" in str(report) and "under backbone." in str(report) and report.classes is None


def test_another_architecture_inside_a_prefix_is_refused(tmp_path):
    state = {f"backbone.{name}": value for name, value in timm.create_model("resnet10t").state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "a.pth")
    with pytest.raises(UserError, match="another architecture") as caught:
        load_weights(nano(), tmp_path / "a.pth")
    assert entry("other-architecture").search(f"error: {caught.value}")


def test_backbones_of_timm_with_other_classifiers_are_loaded(tmp_path):
    """The classifier's name is that of timm's pretrained_cfg; a norm next to it belongs to the backbone."""
    for name in ("convnext_atto", "resnet10t", "deit3_small_patch16_224"):
        source, same, other = (timm.create_model(name, num_classes=n) for n in (5, 5, 7))
        torch.save(source.state_dict(), tmp_path / "a.pth")
        assert load_weights(same, tmp_path / "a.pth").classes == 5
        assert_same(same, source)
        report = load_weights(other, tmp_path / "a.pth")
        assert "5 classes, the model 7" in str(report)
        assert torch.equal(next(other.parameters()), next(source.parameters()))


def test_safetensors_are_read_whatever_their_suffix(tmp_path):
    source, model = nano(), nano()
    save_file(source.state_dict(), tmp_path / "weights.bin")
    load_weights(model, tmp_path / "weights.bin")
    assert_same(model, source)


def linear():
    return torch.nn.Linear(3, 2).eval()


def write_onnx(path):
    torch.onnx.export(linear(), (torch.ones(1, 3),), path, dynamo=True, verbose=False)


def write_torchscript(path):
    torch.jit.trace(linear(), torch.ones(1, 3)).save(str(path))


FOREIGN = {
    "model.onnx": (write_onnx, "an ONNX model"),
    "renamed.pt": (write_onnx, "an ONNX model"),
    "model.pt2": (lambda path: torch.export.save(torch.export.export(linear(), (torch.ones(1, 3),)), path), "torch.ex"),
    "script.pt": (write_torchscript, "a TorchScript program"),
    "array.npy": (lambda path: np.save(path, np.ones(3)), "a NumPy array"),
    "arrays.npz": (lambda path: np.savez(path, a=np.ones(3)), "an archive of NumPy arrays"),
    "login.pth": (lambda path: path.write_text("\n<!DOCTYPE html><html><body>Log in</body></html>"), "a web page"),
    "login.safetensors": (lambda path: path.write_text("<html><body>Log in</body></html>"), "a web page"),
    "pointer.pth": (
        lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 12\n"),
        "a pointer of Git LFS",
    ),
    "model.h5": (lambda path: path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100)), "an HDF5 file"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", FOREIGN)
def test_files_without_weights_are_named_with_their_format(name, tmp_path):
    write, kind = FOREIGN[name]
    write(tmp_path / name)
    with pytest.raises(UserError, match=rf"{name} is .*{kind}.*[:;] ") as caught:
        Checkpoint.open(tmp_path / name)
    assert "\n" not in str(caught.value)
    if name in ("model.onnx", "model.pt2"):  # in place of the file its folder
        with pytest.raises(UserError, match=rf"{name} is .*{kind}"):
            Checkpoint.open(tmp_path)
    program = any(word in kind for word in ("ONNX", "torch.ex", "TorchScript"))
    assert bool(entry("foreign-file").fullmatch(f"error: {caught.value}")) == program


def test_the_folder_of_all_runs_is_refused_with_a_run_in_it(tmp_path):
    (tmp_path / "runs" / "a" / "checkpoints").mkdir(parents=True)
    with pytest.raises(UserError, match=r"runs is a folder without checkpoints; a run in it is .*runs/a$"):
        Checkpoint.open(tmp_path / "runs")


def test_an_unknown_dictionary_is_refused_with_its_keys(tmp_path):
    torch.save({"epoch": 3, "args": {"lr": 1}}, tmp_path / "a.pth")
    with pytest.raises(UserError, match=r"no weights under .* its keys: epoch, args"):
        load_weights(nano(), tmp_path / "a.pth")


def test_arguments_of_a_training_script_are_read_as_data(tmp_path):
    torch.save({"model": nano().state_dict(), "args": argparse.Namespace(lr=0.1)}, tmp_path / "a.pth")
    assert vars(Checkpoint.open(tmp_path / "a.pth").content["args"]) == {"lr": 0.1}
    torch.save({"model": nano().state_dict(), "args": SimpleNamespace(lr=0.1)}, tmp_path / "b.pth")
    with pytest.raises(UserError, match=r"refers to the code types\.SimpleNamespace"):
        Checkpoint.open(tmp_path / "b.pth")
