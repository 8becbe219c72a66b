"""Training and evaluation with less shared memory than the prefetched batches need, as in Docker's default of 64 MB.

Batches and shared memory are 64 times smaller here than in the real case.
"""

import ctypes
import os
import shutil
import subprocess
from functools import partial

import pytest
from training.real_run import RealRun

from dat_train.data import loader

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(
        os.name == "nt"
        or shutil.which("unshare") is None
        or subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode != 0,
        reason="mount namespaces are not allowed here",
    ),
]
BATCHES = ["batch_size=64", "micro_batch_size=64", "data.fake_images=256", "data.workers=2", "epochs=1"]
BATCHES += ["schedule.warmup_epochs=0"]
CLONE_NEWNS = 0x20000


def small(megabytes: int) -> None:
    """Move this process into a mount namespace whose /dev/shm has this size."""
    if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNS):
        raise OSError(ctypes.get_errno(), "unshare")
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", "/dev/shm"], check=True)


def smaller_than_needed() -> None:
    loader.MIN_SHARED_MEMORY = 0
    small(1)


class Evaluation(RealRun):
    settings = ()
    command = "eval"


def test_training_and_evaluation_work(tmp_path):
    """Two workers prefetch eight batches of 200 KB, which do not fit."""
    trained = RealRun(tmp_path, *BATCHES, "max_steps=3", sabotage=partial(small, 1))
    assert trained.wait() == 0, trained.output
    arguments = ("ckpt=runs/run/checkpoints/best.pt", "data.workers=2", "batch_size=64")
    evaluated = Evaluation(tmp_path, *arguments, sabotage=partial(small, 1))
    assert evaluated.wait() == 0, evaluated.output


def test_training_works_with_dockers_64_megabytes(tmp_path):
    """Two workers prefetch eight batches of 12.6 MB, as large as those of 64 images of 256 pixels in 8 bits."""
    large = ["img_size=256", "model.img_size=32", "data.fake_images=256", "data.val_fraction=0.05", "augment=light"]
    trained = RealRun(tmp_path, *BATCHES, *large, "max_steps=2", sabotage=partial(small, 64))
    assert trained.wait() == 0, trained.output


def test_shared_memory_that_is_still_too_small_is_one_line(tmp_path):
    failed = RealRun(tmp_path, *BATCHES, "max_steps=3", sabotage=smaller_than_needed)
    assert failed.wait() == 2 and failed.output.splitlines()[-1].startswith("error"), failed.output
    assert failed.output.count("error") == 1 and "Traceback" not in failed.output
    assert "--shm-size=8g or --ipc=host" in failed.output and "data.workers=0" in failed.output
