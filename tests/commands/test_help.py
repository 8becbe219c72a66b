"""Help texts are complete, and --help is fast."""

import subprocess
import sys
import time

import pytest
from commands.running import run

from dat_train import __version__
from dat_train.cli.command_table import COMMANDS
from dat_train.cli.conf import choices
from dat_train.cli.settings.setting import settings


@pytest.mark.parametrize("command", COMMANDS.values(), ids=lambda command: command.name)
def test_help_names_every_setting_and_choice(command, tmp_path):
    text = run(f"dat-{command.name}", "--help", cwd=tmp_path).stdout
    for item in settings(command.schema):
        if not item.key.endswith(".name"):
            assert item.key in text and item.help[:20] in text
    for group in command.groups:
        for choice in (f"{group}={name}" for name in choices(group)):
            assert (f"  {choice}" in text) != (choice in command.left_out)
    assert max(len(line) for line in text.splitlines()) <= 120


@pytest.mark.parametrize("command", [f"dat-{name}" for name in COMMANDS])
def test_without_arguments_the_usage_is_printed(command, tmp_path):
    result = run(command, cwd=tmp_path)
    assert result.returncode == 0 and f"{command} --help" in result.stdout and len(result.stdout.splitlines()) < 15


def test_help_imports_neither_torch_nor_hydra(tmp_path):
    code = (
        "import sys; sys.argv = ['dat-train', '--help']\n"
        "from dat_train.cli.main import train\n"
        "try: train()\n"
        "except SystemExit: print({'torch', 'hydra', 'wandb'} & set(sys.modules), file=sys.stderr)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert result.stderr.strip() == "set()"


def test_help_takes_less_than_0_7_seconds(tmp_path):
    def seconds():
        begin = time.monotonic()
        assert run("dat-train", "--help", cwd=tmp_path).returncode == 0
        return time.monotonic() - begin

    assert min(seconds() for _ in range(3)) < 0.7  # the quickest: other tests are running, too


def test_version(tmp_path):
    assert run("dat-train", "--version", cwd=tmp_path).stdout == f"dat-train {__version__}\n"
