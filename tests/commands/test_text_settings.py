"""Settings that are texts take the characters as typed; `~` is expanded in all paths."""

import sys
from pathlib import Path

import pytest

from dat_train.cli.arguments import read_arguments
from dat_train.cli.command_table import COMMANDS, PREDICT, TRAIN
from dat_train.cli.main import run_command
from dat_train.cli.settings.paths import expand_value

OK = ("model=dat_nano", "data=digits")
TEXTS = [
    "2024_11_05", "true", "1e-3", "0x10", "é猫", "a=b", "a,b", "(x)", "it's", 'say "hi"', "[1", "{a: b}", "a # b", "%s",
    "back\\slash\\", " space ", "a:b", "?*", "",
]  # fmt: skip


@pytest.fixture
def composed(monkeypatch, tmp_path):
    """The settings that a command gets, for its arguments."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")

    def composed(name, *arguments):
        found = []
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        with pytest.raises(SystemExit) as end:
            run_command(COMMANDS[name], lambda config, command_line: found.append(config))
        assert end.value.code == 0
        return found

    return composed


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_is_taken_as_typed(text, composed):
    (config,) = composed("train", *OK, f"data.root={text}", f"log.wandb_project={text}")
    assert config.data.root == text and config.log.wandb_project == text


def test_a_name_of_digits_stays_a_text_in_a_sweep_too(composed):
    names = [config.name for config in composed("train", *OK, "name=2024_11_05", "seed=1,2", "-m")]
    assert names == ["2024_11_05-seed_1", "2024_11_05-seed_2"]
    assert [config.name for config in composed("train", *OK, "name=a,b", "-m")] == ["a", "b"]


def test_null_quotes_and_interpolations_keep_their_meaning(composed):
    (config,) = composed("train", *OK, "init=null", 'name="a b"', "data.root=${runs_dir}/x")
    assert (config.init, config.name, config.data.root) == (None, "a b", "runs/x")


def test_the_home_folder_is_expanded_in_every_path(composed, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    paths = ("runs_dir", "data.root", "resume", "init", "distill.weights")
    (config,) = composed("train", *OK, *(f"{key}=~/x" for key in paths))
    assert {config.runs_dir, config.data.root, config.resume, config.init, config.distill.weights} == {"/home/me/x"}
    (config,) = composed("predict", "ckpt=~/c.pt", "output=~/o.csv", "~/photo.jpg", "-", "b.jpg")
    assert (config.ckpt, config.output) == ("/home/me/c.pt", "/home/me/o.csv")
    assert config.images == ["/home/me/photo.jpg", "-", "b.jpg"]
    (config,) = composed("visualize", "ckpt=c.pt", "image=~", "output=~/o")
    assert (config.image, config.output) == ("/home/me", "/home/me/o")


def test_only_a_leading_tilde_of_a_known_user_is_expanded(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert expand_value("local-dir:~/x") == "local-dir:/home/me/x"
    assert [expand_value(path) for path in ("~no-such-user/x", "a/~", "hf-hub:a/b")] == [
        "~no-such-user/x",
        "a/~",
        "hf-hub:a/b",
    ]


def test_a_deletion_is_no_path():
    assert read_arguments(PREDICT, ["~/x.jpg", "ckpt=c.pt"])[2] == ["~/x.jpg"]
    with pytest.raises(Exception, match="a setting cannot be deleted"):
        read_arguments(TRAIN, ["~optim", *OK])
    assert Path("~").expanduser()
