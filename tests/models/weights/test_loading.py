"""Reading weights: checkpoints, safetensors and released files, at any resolution, without executing code."""

import json
import os
import pickle
from pathlib import Path

import pytest
import timm
import torch
import torch.nn.functional as F
from golden import FOLDER, build, formula_image, load_golden
from safetensors.torch import load_file, save_file

from dat_train.errors import UserError
from dat_train.models import Checkpoint, load_weights

RELEASED = ["dat_cvpr_micro", "dat_pp_micro"]


def golden_config(name):
    return json.loads((FOLDER / f"{name}.json").read_text())["config"]


def nano(**kwargs):
    return timm.create_model("dat_nano", num_classes=4, **kwargs).eval()


@pytest.mark.parametrize("name", RELEASED)
def test_released_checkpoint_gives_the_published_logits(name):
    model = build(golden_config(name)).eval()
    report = load_weights(model, FOLDER / f"official_{name}.pth")
    want = load_file(FOLDER / f"{name}.safetensors")["logits"]
    assert (model(formula_image(2, 128, 128)) - want).abs().max() < 1e-4
    assert "released" in str(report) and "renamed" in str(report)


def test_the_pickled_configuration_becomes_plain_data():
    config = Checkpoint.open(FOLDER / "official_dat_cvpr_micro.pth").content["config"]
    assert config["MODEL"]["DAT"]["window_sizes"] == [4, 4, 4, 4]
    assert type(config).__module__ == "collections"


def test_released_weights_without_the_pickled_configuration(tmp_path):
    content = Checkpoint.open(FOLDER / "official_dat_cvpr_micro.pth").content
    torch.save({"model": content["model"]}, tmp_path / "weights.pth")
    load_weights(build(golden_config("dat_cvpr_micro")), tmp_path / "weights.pth")


def test_tables_are_resized_bicubically_each_head_its_own_picture():
    config = golden_config("dat_cvpr_micro")
    model = build(config, img_size=192, window_size=6)
    report = load_weights(model, FOLDER / "official_dat_cvpr_micro.pth")
    released = Checkpoint.open(FOLDER / "official_dat_cvpr_micro.pth").content["model"]
    picture = released["stages.2.attns.0.relative_position_bias_table"][:, 3].view(1, 1, 7, 7)
    want = F.interpolate(picture, size=(11, 11), mode="bicubic", align_corners=False).flatten()
    assert torch.allclose(model.stages[2].blocks[0].attn.relative_position_bias_table[:, 3], want)
    picture = released["stages.2.attns.1.rpe_table"][2].view(1, 1, 15, 15)
    want = F.interpolate(picture, size=(23, 23), mode="bicubic", align_corners=False)[0, 0]
    assert torch.allclose(model.stages[2].blocks[1].attn.bias.table[2], want)
    assert "resized" in str(report) and "(15, 15)" in str(report).replace("(4, 15, 15)", "(15, 15)")
    assert torch.isfinite(model.eval()(formula_image(1, 192, 192))).all()


def test_a_released_datpp_checkpoint_serves_other_resolutions():
    config = golden_config("dat_pp_micro")
    same, resized = build(config).eval(), build(config, img_size=192).eval()
    assert "resized" not in str(load_weights(same, FOLDER / "official_dat_pp_micro.pth"))  # as DAT-B++ at 384 is run
    report = load_weights(resized, FOLDER / "official_dat_pp_micro.pth")
    assert "resized table (1, 63, 63) -> (1, 95, 95) bicubically" in str(report)
    assert "rpb" not in str(report)  # neighborhoods have the same kernel at any resolution
    images = formula_image(1, 192, 160)
    a, b = same(images), resized(images)
    assert torch.isfinite(a).all() and 0 < (a - b).abs().max() < 0.05 * a.abs().max()


def test_fixed_tables_are_resized_along_queries_and_keys(tmp_path):
    golden = load_golden("dat_pp_micro_fixed_pe")
    torch.save(golden.model.state_dict(), tmp_path / "weights.pt")
    model = build(golden.record["config"], img_size=256)
    load_weights(model, tmp_path / "weights.pt")
    assert model.stages[2].blocks[1].attn.bias.table.shape == (4, 256, 64)


def test_another_number_of_classes_keeps_a_new_classifier_and_reports_it():
    model = build(golden_config("dat_cvpr_micro"), num_classes=5)
    before = model.head.fc.weight.clone()
    report = load_weights(model, FOLDER / "official_dat_cvpr_micro.pth")
    assert torch.equal(model.head.fc.weight, before)
    assert "10 classes, the model 5" in str(report)


def test_a_model_without_classifier_takes_the_rest():
    model = build(golden_config("dat_cvpr_micro"), num_classes=0).eval()
    load_weights(model, FOLDER / "official_dat_cvpr_micro.pth")
    whole = load_golden("dat_cvpr_micro").model
    x = formula_image(1, 128, 128)
    assert torch.allclose(model(x), whole.forward_head(whole.forward_features(x), pre_logits=True))


def test_grayscale_stem_is_adapted():
    model = build(golden_config("dat_cvpr_micro"), in_chans=1)
    report = load_weights(model, FOLDER / "official_dat_cvpr_micro.pth")
    released = Checkpoint.open(FOLDER / "official_dat_cvpr_micro.pth").content["model"]["patch_proj.0.weight"]
    assert torch.allclose(model.stem.conv.weight, released.sum(1, keepdim=True))
    assert "3 to 1 channels" in str(report)


def test_our_checkpoint_gives_plain_or_averaged_weights(tmp_path):
    plain, averaged = nano(), nano()
    path = tmp_path / "last.pt"
    torch.save({"model": plain.state_dict(), "ema": averaged.state_dict(), "step": 3}, path)
    model = nano()
    for ema, want in ((False, plain), (True, averaged), (None, averaged)):
        load_weights(model, path, ema=ema)
        assert torch.equal(model.head.fc.weight, want.head.fc.weight)
    torch.save({"model": plain.state_dict(), "ema": None}, path)
    load_weights(model, path)
    assert torch.equal(model.head.fc.weight, plain.head.fc.weight)
    with pytest.raises(UserError, match="no averaged weights"):
        load_weights(model, path, ema=True)


def test_safetensors_and_wrapped_names(tmp_path):
    source, model = nano(), nano()
    save_file(source.state_dict(), tmp_path / "model.safetensors")
    load_weights(model, tmp_path / "model.safetensors")
    assert torch.equal(model.stem.conv.weight, source.stem.conv.weight)
    wrapped = {f"module._orig_mod.{name}": value for name, value in source.state_dict().items()}
    torch.save({"state_dict": wrapped}, tmp_path / "wrapped.pth")
    load_weights(nano(), tmp_path / "wrapped.pth")


class Hostile:
    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_hostile_pickle_executes_nothing(tmp_path, zipped):
    path, proof = tmp_path / "evil.pth", tmp_path / "executed"
    content = {"model": nano().state_dict(), "config": Hostile(f"touch {proof}")}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(UserError, match=r"evil\.pth refers to the code .*system.* nothing was executed") as caught:
        load_weights(nano(), path)
    assert not proof.exists() and "\n" not in str(caught.value)
    pickle.loads(pickle.dumps(content["config"]))  # the file was hostile indeed
    assert proof.exists()


def test_incomplete_checkpoints_give_one_line(tmp_path):
    whole = tmp_path / "whole.pt"
    torch.save({"model": nano().state_dict()}, whole)
    save_file(nano().state_dict(), tmp_path / "whole.safetensors")
    data = whole.read_bytes()
    cases = {
        "text.pt": b"not a checkpoint",
        "empty.pt": b"",
        "truncated.pt": data[: len(data) // 2],
        "cut_short.pt": data[:-10],
        "truncated.safetensors": (tmp_path / "whole.safetensors").read_bytes()[:5000],
        "text.safetensors": b"hello",
        "list.pt": None,
        "keys.pt": None,
    }
    torch.save({"model": {"a": torch.ones(9)}}, tmp_path / "legacy.pt", _use_new_zipfile_serialization=False)
    legacy = (tmp_path / "legacy.pt").read_bytes()
    cases |= {f"legacy_{size}.pt": legacy[:size] for size in range(100, len(legacy), 40)}
    torch.save([1, 2], tmp_path / "list.pt")
    torch.save({"other": 1}, tmp_path / "keys.pt")
    model = nano()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for name, content in cases.items():
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError) as caught:
            load_weights(model, tmp_path / name)
        assert name in str(caught.value) and "\n" not in str(caught.value), name
    for path in (tmp_path / "absent.pt", tmp_path):
        with pytest.raises(UserError, match=r"no such file|is a folder"):
            load_weights(model, path)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_another_architecture_is_refused_whole():
    model = nano()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(UserError, match="another architecture") as caught:
        load_weights(model, FOLDER / "official_dat_cvpr_micro.pth")
    assert "\n" not in str(caught.value)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    resnet = timm.create_model("resnet10t", num_classes=4)
    with pytest.raises(UserError, match="another architecture"):
        load_weights(resnet, FOLDER / "official_dat_cvpr_micro.pth")


def change_nothing(state):
    return state


@pytest.mark.parametrize(
    ("name", "arguments", "change"),
    [
        ("dat_nano", {"in_chans": 1}, change_nothing),  # from one channel to six
        ("swin_tiny_patch4_window7_224", {}, lambda state: {n: longer(n, v) for n, v in state.items()}),
        ("dat_nano", {"position_bias": "fixed", "img_size": (64, 32)}, change_nothing),
    ],
)
def test_weights_without_a_rule_for_their_shape_are_refused_in_one_line(name, arguments, change):
    torch.manual_seed(0)
    state = change(timm.create_model(name, num_classes=4, **arguments).state_dict())
    other = {"in_chans": {"in_chans": 6}}.get(next(iter(arguments), ""), {})
    other |= {"position_bias": "fixed", "img_size": 96} if "position_bias" in arguments else {}
    model = timm.create_model(name, num_classes=4, **other)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(UserError, match="another architecture") as caught:
        load_weights(model, Checkpoint(Path("file.pt"), {"model": state}, False, None))
    assert "\n" not in str(caught.value)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def longer(name, value):
    """A bias table with three further rows, as in BEiT."""
    return torch.cat([value, value[:3]]) if name.endswith("relative_position_bias_table") else value
