"""Run with TRITON_INTERPRET=1, which Triton reads when it is imported: the kernels against the plain formulation."""

import torch
from models.kernels.test_agreement import attention_inputs

from dat_train.models.kernels.choice import using
from dat_train.models.kernels.deformable_attention import deformable_attention


def furthest(geometry: str, dtype: torch.dtype) -> list[float]:
    """Relative differences of value and gradients of queries, keys and values, positions and table, in this order.

    Keys and queries do not fill their blocks, some positions lie outside, the table is made for another size.
    """
    inputs = attention_inputs(geometry, dtype, B=2, H=7, W=10, keys=(5, 7), C=64)
    exact = [item.detach().double().requires_grad_() for item in inputs[:4]]
    want = deformable_attention(*exact, geometry)
    with using("triton"):
        got = deformable_attention(*inputs)
    upstream = torch.randn(got.shape).to(dtype)
    gradients = torch.autograd.grad(got, inputs[:4], upstream)
    wanted = torch.autograd.grad(want, exact, upstream.double())
    pairs = zip((got, *gradients), (want, *wanted), strict=True)
    return [((a - b).norm() / b.norm()).item() for a, b in pairs]


if __name__ == "__main__":
    for geometry in ("cvpr", "dat++"):
        assert max(found := furthest(geometry, torch.float32)) < 1e-5, (geometry, found)
    # in place of bfloat16, whose products the interpreter takes for integers
    assert max(found := furthest("cvpr", torch.float16)) < 0.01, found
