"""A trained model with its classes and transform, without its data."""

import pytest
import torch
from commands.small_checkpoint import DIGITS, write_small_checkpoint
from PIL import Image
from timm.data import ImageNetInfo

from dat_train.commands.load_trained import class_names, open_trained
from dat_train.errors import UserError
from dat_train.models import Checkpoint


def test_a_checkpoint_brings_its_class_names_and_its_transform(tmp_path):
    names = [f"digit {digit}" for digit in DIGITS]
    trained = open_trained(write_small_checkpoint(tmp_path / "last.pt", "eval.resize=squash", classes=names))
    assert trained.classes == names and not trained.model.training
    image = trained.transform(Image.new("RGB", (40, 20), "white"))
    assert image.shape == (3, 32, 32) and torch.equal(image, torch.ones_like(image))  # white is 1 with mean, std 0.5
    assert trained.model(image[None]).shape == (1, 10)


def test_an_older_checkpoint_has_numbers_for_names(tmp_path):
    content = Checkpoint.open(write_small_checkpoint(tmp_path / "last.pt", classes=["a", "b", "c"])).content
    del content["classes"]
    torch.save(content, tmp_path / "old.pt")
    assert open_trained(tmp_path / "old.pt").classes == ["0", "1", "2"]


def test_a_thousand_classes_are_imagenets():
    info = ImageNetInfo()
    assert class_names([], 1000)[0] == class_names(info.label_names(), 1000)[0] == "tench, Tinca tinca"
    assert class_names(["n01440764", "n99999999"], 2) == ["tench, Tinca tinca", "n99999999"]


def test_weights_without_a_configuration_are_refused_in_one_line(tmp_path):
    torch.save({"model": {}}, tmp_path / "bare.pt")
    with pytest.raises(UserError, match="has no training settings"):
        open_trained(tmp_path / "bare.pt")
