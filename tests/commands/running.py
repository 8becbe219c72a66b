"""Running the real commands in separate processes, as a user does."""

import contextlib
import io
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from training import real_run
from training.small_run import warm_context

from dat_train.cli.main import main

MODULES = {"dat-train": "dat_train.commands.train", "dat-eval": "dat_train.commands.evaluate"}  # for torchrun


def run(
    command: str, *arguments: str, cwd: Path, timeout: float = 120, **environment: str
) -> subprocess.CompletedProcess:
    """Run `command` with `arguments` in folder `cwd`; never raises for its exit code."""
    return run_python(["-m", "dat_train.cli.main", command.removeprefix("dat-"), *arguments], cwd, timeout, environment)


def run_task(task: str, *arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess:
    """Run a dat-train whose work is the Python statement `task`, which sees the settings as `config`."""
    imports = "from dat_train.cli.main import run_command\nfrom dat_train.cli.command_table import TRAIN\n"
    code = f"{imports}def task(config, command_line):\n    {task}\nrun_command(TRAIN, task)"
    return run_python(["-c", code, *arguments], cwd, 60, environment)


def run_python(arguments: list[str], cwd: Path, timeout: float, environment: dict) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env=os.environ | {"OMP_NUM_THREADS": "1", "WANDB_MODE": "offline"} | environment,
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def run_forked(
    command: str, *arguments: str, cwd: Path, timeout: float = 120, **environment: str
) -> subprocess.CompletedProcess:
    """Run `command` as `run` does, in a process that is forked from a server with all imports: seconds less.

    Variables that other packages read when they are imported have no effect.
    """
    line = [command.removeprefix("dat-"), *arguments]
    variables = {"WANDB_MODE": "offline"} | environment
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / name for name in ("out", "err")]
        process = warm_context().Process(target=real_run.run_forked, args=(line, str(cwd), tuple(files), variables))
        process.start()
        process.join(timeout)
        if process.is_alive():
            process.kill()
            raise subprocess.TimeoutExpired([command, *arguments], timeout)
        return subprocess.CompletedProcess(arguments, process.exitcode, *(file.read_text() for file in files))


def run_here(command: str, *arguments: str, cwd: Path, stdin: str = "") -> subprocess.CompletedProcess:
    """Run `command` as `run` does, but in this process, which has imported everything already."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    with contextlib.chdir(cwd), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        former = sys.argv, sys.stdin
        sys.argv, sys.stdin = [command, *arguments], io.TextIOWrapper(io.BytesIO(stdin.encode()))
        try:
            main(command.removeprefix("dat-"))
        except SystemExit as end:
            code = end.code
        finally:
            sys.argv, sys.stdin = former
    return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())


def torchrun(command: str, *arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess:
    """Run `command` in two processes, as the README says."""
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", MODULES[command], *arguments]
    return run_python(launch, cwd, 300, environment)
