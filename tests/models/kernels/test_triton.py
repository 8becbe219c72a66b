"""The Triton kernels on a CPU: numbers by Triton's interpreter, and compilation for GPUs."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[2]


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="this torch came without Triton")
@pytest.mark.long
def test_kernels_give_the_plain_values_and_gradients():
    environment = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": str(TESTS)}
    done = subprocess.run(
        [sys.executable, "-m", "models.kernels.triton_agreement"], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="this torch came without Triton")
@pytest.mark.long
@pytest.mark.parametrize("capability", [80, 90], ids=["A100", "H100"])
def test_kernels_compile_for_a_gpu_and_fit_its_registers(capability, tmp_path):
    """In bfloat16, for DAT-T's stage 3; spilled registers lie in slow memory."""
    code = (TESTS / "models/kernels/triton_compiled.py").read_text()
    done = subprocess.run(
        [sys.executable, "-c", code, str(capability)], capture_output=True, text=True,
        env=os.environ | {"TRITON_CACHE_DIR": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    spilled = {name: int(size) for name, size in map(str.split, done.stdout.splitlines())}
    assert set(spilled) == {"_forward", "_backward_queries", "_backward_keys"}
    assert max(spilled.values()) <= 8, spilled  # bytes a thread


def test_models_on_a_cpu_do_not_import_triton():
    code = (
        "import sys, timm, torch, dat_train.models\n"
        "from dat_train.models.kernels import accelerate\n"
        "accelerate(timm.create_model('dat_nano'), 'cpu')(torch.randn(1, 3, 32, 32)).sum().backward()\n"
        "sys.exit('dat_train.models.kernels.triton_attention' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
