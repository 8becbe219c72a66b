"""README and docs are correct: commands compose, settings exist, numbers are measured, links are valid."""

import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import timm
import torch
import yaml
from models.published_sizes import PUBLISHED

from dat_train.cli.command_table import TRAIN
from dat_train.cli.conf import conf_dir
from dat_train.cli.main import run_command
from dat_train.cli.settings.setting import settings
from dat_train.cli.settings.train import TrainConfig
from dat_train.cli.settings.trained_model import EvalConfig
from dat_train.models import count_macs, count_parameters

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCES = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.M | re.S)
BLOCKS = [text for language, text in FENCES if not language]


def typed(command: str) -> list[str]:
    """The lines in README's blocks that call `command`, without comments."""
    lines = [line.removeprefix("$ ").partition("  #")[0].strip() for block in BLOCKS for line in block.splitlines()]
    return [line for line in lines if re.match(rf"{command} |torchrun .*-m dat_train\.commands\.", line)]


@pytest.mark.parametrize("line", typed("dat-train"))
def test_every_training_command_of_the_readme_composes(line, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    words = [word for word in shlex.split(line) if word != "..."]
    arguments = words[1:] if words[0] == "dat-train" else words[words.index("-m") + 2 :]
    monkeypatch.setattr(sys, "argv", ["dat-train", *arguments])
    with pytest.raises(SystemExit) as stop:
        run_command(TRAIN, lambda config, command_line: None)
    assert stop.value.code == 0, capsys.readouterr().err


ROWS = re.findall(r"^\| `(\w+)` \| `(\w+)` \| ([\d,]+) \| ([\d.]+) G \| (\d+) \|", README, re.M)


def test_the_table_of_models_has_all_configurations_and_the_tested_numbers():
    """Parameters and MACs of the published models are measured in models/test_timm_contract.py."""
    assert {row[0] for row in ROWS} == {path.stem for path in (conf_dir() / "model").glob("*.yaml")} - {"timm"}
    for name, timm_name, parameters, macs, size in ROWS:
        configured = yaml.safe_load((conf_dir() / "model" / f"{name}.yaml").read_text())
        recipe = conf_dir() / "recipe/classification" / f"{name}.yaml"  # may set another resolution
        configured |= yaml.safe_load(recipe.read_text()) if recipe.exists() else {}
        assert (configured["timm_name"], configured["img_size"]) == (timm_name, int(size))
        if timm_name in PUBLISHED:
            assert (int(parameters.replace(",", "")), float(macs)) == PUBLISHED[timm_name], name


@pytest.mark.long
@pytest.mark.parametrize("row", [row for row in ROWS if row[1] not in PUBLISHED], ids=lambda row: row[0])
def test_the_table_of_other_backbones_is_measured(row):
    name, timm_name, parameters, macs, size = row
    with torch.device("meta"):
        model = timm.create_model(timm_name)
    assert f"{count_parameters(model):,}" == parameters, name
    assert f"{count_macs(model, int(size)) / 1e9:.2f}" == macs, name


def test_every_setting_the_readme_names_exists():
    known = {item.key for schema in (TrainConfig, EvalConfig) for item in settings(schema)}
    groups = "|".join(sorted({key.partition(".")[0] for key in known if "." in key}))
    named = re.findall(rf"`((?:{groups})\.\w+)(?:=[^`]*)?`", README)
    assert named and set(named) <= known


def test_every_command_of_the_readme_is_installed():
    scripts = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"])
    assert set(re.findall(r"^(dat-\w+) ", "".join(BLOCKS), re.M)) == scripts


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_pictures_exist(page):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target


def test_the_reference_of_commands_is_their_help():
    subprocess.run([sys.executable, ROOT / "scripts" / "command_reference.py", "--check"], check=True)
