"""Terminals, pipes and environments: a command works, or ends with one line."""

import os
import shutil
import subprocess
import sys

import pytest
from commands.running import run, run_here
from commands.small_checkpoint import TINY
from data.files import write_image
from troubleshooting import entry

from dat_train.cli.machine_faults import environment_error
from dat_train.errors import NO_COMPILER

FAKE = ["model=dat_nano", TINY, "data=fake", "data.fake_images=16", "data.fake_classes=2", "data.val_fraction=0.5"]
FAKE += ["batch_size=8", "micro_batch_size=4", "epochs=1", "schedule.warmup_epochs=0", "data.workers=0", "device=cpu"]
TRAIN = f"{sys.executable} -m dat_train.cli.main train"


def shell(text, cwd, **environment):
    """Run a line of bash."""
    return subprocess.run(
        ["bash", "-c", text], cwd=cwd, env=os.environ | environment, capture_output=True, text=True, timeout=200
    )


def quoted(arguments):
    return " ".join(f"'{argument}'" for argument in arguments)


@pytest.mark.parametrize("encoding", ["latin-1", pytest.param("ascii", marks=pytest.mark.long)])
def test_a_terminal_without_the_characters_gets_escapes(encoding, tmp_path):
    result = run("dat-train", *FAKE, "name=犬", "max_steps=1", cwd=tmp_path, PYTHONIOENCODING=encoding)
    assert result.returncode == 0, result.stderr
    assert "runs/\\u72ac" in result.stdout
    assert "runs/犬" in (tmp_path / "runs" / "犬" / "log.txt").read_text(encoding="utf-8")


OTHERS = [pytest.param(closed, marks=pytest.mark.long) for closed in (">&-", "| head -1", "2>&1 | true")]


@pytest.mark.parametrize("closed", [">&- 2>&-", *OTHERS])
def test_a_closed_output_pipe_ends_no_run(closed, tmp_path):
    result = shell(f"{TRAIN} {quoted(FAKE)} max_steps=1 name=run {closed}", tmp_path)
    assert result.returncode == 0 and "Traceback" not in result.stderr and "Exception" not in result.stderr
    assert (tmp_path / "runs" / "run" / "summary.json").exists()


def test_help_into_head_is_quiet(tmp_path):
    result = shell(f"set -o pipefail; {TRAIN} --help | head -1", tmp_path)
    assert (result.returncode, result.stderr) == (0, "") and result.stdout.startswith("dat-train model=")


def test_a_part_of_the_variables_of_torchrun_is_refused(tmp_path):
    result = run("dat-train", *FAKE, cwd=tmp_path, WORLD_SIZE="2", RANK="1")
    assert result.returncode == 2 and entry("torchrun").fullmatch(result.stderr.strip())
    result = run("dat-train", "lr=1", cwd=tmp_path, WORLD_SIZE="", RANK="", MASTER_ADDR="")
    assert "lr is not a setting" in result.stderr  # empty is unset


def test_a_deleted_working_directory_is_one_line(tmp_path):
    (tmp_path / "gone").mkdir()
    code = "from dat_train.cli.main import train; train()"
    environment = {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    result = shell(f"cd gone; rmdir ../gone; {sys.executable} -c '{code}' {quoted(FAKE)}", tmp_path, **environment)
    assert result.returncode == 2 and entry("working-directory").fullmatch(result.stderr.strip())


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="setpriv takes the right to read everything from root")
def test_a_folder_without_permission_is_one_line(tmp_path):
    for label in ("cat", "dog"):
        write_image(tmp_path / "photos" / label / "1.png")
    (tmp_path / "photos/cat").chmod(0)
    rights = "-dac_override,-dac_read_search"
    check = f"{sys.executable} -m dat_train.cli.main check data.root=photos workers=0"
    done = shell(f"setpriv --bounding-set={rights} --inh-caps={rights} {check}", tmp_path)
    assert done.returncode == 2 and entry("permission").fullmatch(done.stderr.strip()), done.stderr
    error = environment_error(PermissionError(13, "Permission denied", "photos/ca\nt"))
    assert error == "photos/ca\\nt: Permission denied; check the permissions and the disk"


def test_too_few_open_files_are_refused_before_the_work(tmp_path):
    result = shell(f"ulimit -n 64; {TRAIN} {quoted(FAKE)}", tmp_path)
    assert result.returncode == 2 and entry("open-files").fullmatch(result.stderr.strip())
    error = RuntimeError("unable to open shared memory object: Too many open files (24)")
    assert "ulimit -n 65536" in environment_error(error)


def test_compiling_without_a_compiler_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", os.path.dirname(sys.executable))  # noqa: PTH120  no compiler in it
    monkeypatch.setenv("CXX", "")
    result = run_here("dat-train", *FAKE, "compile=true", "kernels=plain", cwd=tmp_path)
    assert result.returncode == 2 and entry("compiler").fullmatch(result.stderr.strip()), result.stderr
    assert not result.stdout  # found before the plan of the run, not by torch minutes later
    error = RuntimeError("in a worker")
    error.__cause__ = type("InvalidCxxCompiler", (RuntimeError,), {})()  # torch's own search
    assert environment_error(error) == NO_COMPILER
