"""Training in less memory than its activations need."""

import sys

import pytest
from commands.running import run_python
from training.real_run import SETTINGS
from troubleshooting import entry

PROGRAM = """
import pathlib, resource
import dat_train.commands.train
from dat_train.cli.main import main
pages = int(pathlib.Path("/proc/self/statm").read_text().split()[0])
resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (1 << 29), resource.RLIM_INFINITY))
main("train")
"""
LARGE = ["img_size=256", "batch_size=32", "micro_batch_size=32", "data.workers=0", "device=cpu"]


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc and RLIMIT_AS")
def test_too_little_memory_is_one_line_with_the_settings_to_change(tmp_path):
    result = run_python(["-c", PROGRAM, *SETTINGS, *LARGE], tmp_path, 300, {"OMP_NUM_THREADS": "1"})
    assert result.returncode == 2 and len(result.stderr.splitlines()) == 1, result.stderr
    assert entry("out-of-memory").search(result.stderr), result.stderr
