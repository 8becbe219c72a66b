"""Compile the kernels for a compute capability and print the bytes that a thread of each spills. Needs no GPU."""

import re
import subprocess
import sys
import tempfile

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from dat_train.models.kernels import triton_attention as kernels

CUT = {"q", "kv", "out", "d_out", "d_q", "d_kv"}  # in bfloat16 under autocast
SIZES = {"W": 14, "TH": 27, "TW": 27, "HEADS": 12, "GROUPS": 3, "D": 32,
         "BN": kernels.BLOCK_QUERIES, "BM": kernels.BLOCK_KEYS}  # fmt: skip


def kind(name: str) -> str:
    """Type of an argument, in Triton's notation."""
    if name in SIZES:
        return "constexpr"
    return {"scale": "fp32", "N": "i32", "M": "i32"}.get(name, "*bf16" if name in CUT else "*fp32")


def spilled(kernel, capability: int) -> int:
    names = kernel.arg_names
    sizes = {(names.index(name),): value for name, value in SIZES.items()}
    source = ASTSource(kernel, {name: kind(name) for name in names}, sizes)
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options={"num_warps": kernels.WARPS})
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        usage = subprocess.check_output(
            [triton.knobs.nvidia.cuobjdump.path, "-res-usage", file.name], text=True, stderr=subprocess.STDOUT
        )
    return int(re.search(r"STACK:(\d+)", usage).group(1))


if __name__ == "__main__":
    capability = int(sys.argv[1])
    for kernel in (kernels._forward, kernels._backward_queries, kernels._backward_keys):
        print(kernel.__name__, spilled(kernel, capability))
