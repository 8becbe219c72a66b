"""Training without the functions that only Linux, or only POSIX systems, have."""

import multiprocessing
import os
import subprocess
import sys
from functools import partial

import pytest
from training.real_run import SETTINGS, RealRun, content

SHORT = ("max_steps=2", "epochs=1", "schedule.warmup_epochs=0")
TRAIN = """
import dat_train.cli.main, dat_train.commands.train, dat_train.commands.evaluate, dat_train.commands.predict
dat_train.cli.main.main("train")
"""
# macOS has no CPU affinity and no /dev/shm.
MACOS = """
import os
del os.sched_getaffinity
statvfs = os.statvfs
def without_shared_memory(path):
    if path == "/dev/shm":
        raise FileNotFoundError(2, "No such file or directory", path)
    return statvfs(path)
os.statvfs = without_shared_memory
"""
WINDOWS = """
import os, signal, sys
import timm, torch  # torch calls some of them unless sys.platform says Windows
sys.modules["fcntl"] = sys.modules["resource"] = None  # an import of them fails
names = ("sched_getaffinity", "fork", "register_at_fork", "statvfs", "setpgrp", "mkfifo", "O_NONBLOCK", "killpg")
for name in names:
    delattr(os, name)
for name in ("SIGUSR1", "SIGHUP", "SIGCHLD"):
    delattr(signal, name)
"""


def train(program: str, *settings: str, cwd) -> None:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    trained = subprocess.run(
        [sys.executable, "-c", program + TRAIN, *SETTINGS, *SHORT, *settings],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert trained.returncode == 0, trained.stderr
    assert not trained.stderr, trained.stderr
    assert (cwd / "runs/run/checkpoints/best.pt").exists()


@pytest.mark.long
@pytest.mark.parametrize("hidden", [MACOS, WINDOWS], ids=["macos", "windows"])
def test_training_works_without_the_functions_that_a_system_lacks(hidden, tmp_path):
    train(hidden, "data.workers=0", cwd=tmp_path)


@pytest.mark.long
def test_all_ways_to_start_data_workers_train_the_same_model(tmp_path):
    """fork is Linux' way up to Python 3.13, forkserver from 3.14, spawn is that of macOS and Windows."""
    files = {}
    for method in ("fork", "forkserver", "spawn"):
        start = partial(multiprocessing.set_start_method, method, force=True)
        run = RealRun(tmp_path / method, *SHORT, sabotage=start)
        assert run.wait() == 0, run.output
        files[method] = content(run.run)
    assert files["fork"] == files["forkserver"] == files["spawn"]
