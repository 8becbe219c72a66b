"""Weights by timm's names: local folders, and the hub through its client and cache."""

import hashlib

import huggingface_hub
import pytest
import timm
import torch

import dat_train.models  # noqa: F401  registers dat_nano
from dat_train.errors import UserError
from dat_train.models import load_weights
from dat_train.models.weights.weights_file import weights_file


def nano():
    return timm.create_model("dat_nano", num_classes=4, depths=(1, 1, 2, 1))


@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
def test_a_folder_that_timm_wrote_is_read(file, tmp_path):
    source, model = nano(), nano()
    timm.models.save_for_hf(source, tmp_path, safe_serialization=file.endswith("safetensors"))
    report = load_weights(model, f"local-dir:{tmp_path}")
    assert report.path == tmp_path / file and report.classes == 4
    assert all(torch.equal(a, b) for a, b in zip(source.parameters(), model.parameters(), strict=True))


def test_a_folder_without_weights_and_a_missing_folder_are_distinguished(tmp_path):
    with pytest.raises(UserError, match=r"has no model\.safetensors"):
        weights_file(f"local-dir:{tmp_path}")
    with pytest.raises(UserError, match="is not a folder"):
        weights_file(f"local-dir:{tmp_path / 'absent'}")


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """The hub's client offline, with one repository in its cache."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    repository = tmp_path / "models--owner--dat"
    commit = hashlib.sha1(b"a commit").hexdigest()
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    source = nano()
    timm.models.save_for_hf(source, repository / "snapshots" / commit, safe_serialization=True)
    return source


def test_a_repository_of_the_hub_is_read_from_its_cache(hub):
    model = nano()
    report = load_weights(model, "hf-hub:owner/dat")
    assert report.path.name == "model.safetensors" and torch.equal(model.norm.weight, hub.norm.weight)
    assert torch.equal(model.stem.conv.weight, hub.stem.conv.weight)
    load_weights(model, "hf-hub:owner/dat@main")


@pytest.mark.parametrize("name", ["owner/other", "a name/with/slashes", "owner/dat@v9", "a@b@c"])
def test_weights_missing_on_the_hub_are_one_line(name, hub):
    with pytest.raises(UserError, match="has no weights that can be downloaded") as caught:
        weights_file(f"hf-hub:{name}")
    assert "\n" not in str(caught.value)


def test_the_folder_of_a_run_means_its_best_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    checkpoints = tmp_path / "runs" / "digits" / "checkpoints"
    checkpoints.mkdir(parents=True)
    (checkpoints / "last.pt").touch()
    assert weights_file("~/runs/digits") == checkpoints / "last.pt"
    (checkpoints / "best.pt").touch()
    for name in ("~/runs/digits", checkpoints.parent, checkpoints, checkpoints / "best.pt"):
        assert weights_file(name) == checkpoints / "best.pt"
    assert weights_file(tmp_path) == tmp_path  # which Checkpoint.open refuses
