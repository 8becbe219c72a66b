"""Training and evaluation with less shared memory than the prefetched batches need, as in Docker's default of 64 MB.

Batches and shared memory are 64 times smaller here than in the real case.
"""

import os
import shutil
import subprocess
import sys

import pytest
from training.real_run import SETTINGS

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(
        os.name == "nt"
        or shutil.which("unshare") is None
        or subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode != 0,
        reason="mount namespaces are not allowed here",
    ),
]
BATCHES = ["batch_size=64", "micro_batch_size=64", "data.fake_images=256", "data.workers=2"]


def with_shared_memory(megabytes: int, program: str, *arguments: str, cwd) -> subprocess.CompletedProcess:
    """Run a Python program in a mount namespace whose /dev/shm has this size."""
    command = f'mount -t tmpfs -o size={megabytes}m tmpfs /dev/shm && exec "$@"'
    return subprocess.run(
        ["unshare", "-m", "sh", "-c", command, "sh", sys.executable, "-c", program, *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=300,
    )


def dat(name: str) -> str:
    return f"from dat_train.cli.main import main; main({name!r})"


def test_training_and_evaluation_work(tmp_path):
    """Two workers prefetch eight batches of 200 KB, which do not fit."""
    settings = [*SETTINGS, *BATCHES, "max_steps=3", "epochs=1", "schedule.warmup_epochs=0"]
    trained = with_shared_memory(1, dat("train"), *settings, cwd=tmp_path)
    assert trained.returncode == 0, trained.stderr
    ckpt = "ckpt=runs/run/checkpoints/best.pt"
    evaluated = with_shared_memory(1, dat("eval"), ckpt, "data.workers=2", "batch_size=64", cwd=tmp_path)
    assert evaluated.returncode == 0, evaluated.stderr


def test_training_works_with_dockers_64_megabytes(tmp_path):
    """Two workers prefetch eight batches of 12.6 MB, as large as those of 64 images of 256 pixels in 8 bits."""
    large = ["img_size=256", "model.img_size=32", "data.fake_images=256", "data.val_fraction=0.05", "augment=light"]
    settings = [*SETTINGS, *BATCHES, *large, "max_steps=2", "epochs=1", "schedule.warmup_epochs=0"]
    trained = with_shared_memory(64, dat("train"), *settings, cwd=tmp_path)
    assert trained.returncode == 0, trained.stderr


def test_shared_memory_that_is_still_too_small_is_one_line(tmp_path):
    program = "import dat_train.data.loader as loader; loader.MIN_SHARED_MEMORY = 0; " + dat("train")
    settings = [*SETTINGS, *BATCHES, "max_steps=3", "epochs=1", "schedule.warmup_epochs=0"]
    failed = with_shared_memory(1, program, *settings, cwd=tmp_path)
    assert failed.returncode == 2 and len(failed.stderr.splitlines()) == 1, failed.stderr
    assert "--shm-size=8g or --ipc=host" in failed.stderr and "data.workers=0" in failed.stderr
