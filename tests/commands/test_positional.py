"""Arguments without a name are values of the positional setting, with any characters."""

import dataclasses

import pytest

from dat_train.cli.arguments import read_arguments
from dat_train.cli.command_table import EVALUATE
from dat_train.errors import UserError

COMMAND = dataclasses.replace(EVALUATE, positional="images")


def test_arguments_without_a_name_are_distinguished_from_settings(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lr=1.png").touch()
    names = ["a b.png", "-", "folder/x=1.png", "lr=1.png", "*.jpg", "it's {this}, [that].png"]
    settings = ["ckpt=c.pt", "hydra/job_logging=none", "data=digits"]
    arguments, overrides, unnamed = read_arguments(COMMAND, [settings[0], *names, *settings[1:]])
    assert unnamed == names
    assert arguments == ["ckpt='c.pt'", *settings[1:]]  # a text is quoted for Hydra
    assert set(overrides) == {"ckpt", "hydra/job_logging", "data"}


def test_a_misspelt_setting_is_no_file():
    with pytest.raises(UserError, match=r"img_sise is not a setting; did you mean img_size"):
        read_arguments(COMMAND, ["ckpt=c.pt", "img_sise=64"])


def test_a_command_without_positional_setting_takes_settings_alone():
    with pytest.raises(UserError, match=r"'picture.png' is not a setting: write NAME=VALUE"):
        read_arguments(EVALUATE, ["ckpt=c.pt", "picture.png"])
