"""The CUDA kernels, run by Triton's interpreter on a CPU."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[2]


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="this torch came without Triton")
def test_kernels_give_the_plain_values_and_gradients():
    environment = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": str(TESTS)}
    done = subprocess.run(
        [sys.executable, "-m", "models.kernels.triton_agreement"], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_models_on_a_cpu_do_not_import_them():
    code = (
        "import sys, timm, torch, dat_train.models\n"
        "timm.create_model('dat_nano')(torch.randn(1, 3, 32, 32)).sum().backward()\n"
        "sys.exit('dat_train.models.kernels.triton_attention' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
