"""The Triton kernels compared with plain attention; run with TRITON_INTERPRET=1, which Triton reads on import."""

import torch

from dat_train.models.deformable import DeformableAttention
from dat_train.models.kernels.triton_attention import triton_deformable_attention


def largest_differences(geometry: str, dtype: torch.dtype) -> list[float]:
    """Relative differences of value and gradients of queries, keys and values, positions and table, in this order.

    Keys and queries do not fill their blocks, some positions lie outside, the table is made for another size.
    """
    torch.manual_seed(0)
    B, H, W, C, heads, groups, keys = 2, 7, 10, 64, 4, 2, (5, 7)
    layer = DeformableAttention(C, heads, groups, (3, 5), geometry=geometry).double()
    q, kv = (torch.randn(shape, dtype=dtype) for shape in ((B, H, W, C), (B, keys[0] * keys[1], 2 * C)))
    positions, table = torch.rand(B, groups, *keys, 2) * 2.4 - 1.2, torch.randn(heads, 5, 9)
    inputs = [tensor.requires_grad_() for tensor in (q, kv, positions, table)]
    exact = [tensor.detach().double().requires_grad_() for tensor in inputs]
    bias = torch.func.functional_call(layer.bias, {"table": exact[3]}, (exact[2], H, W))
    layer.bias = None
    layer.__dict__["bias"] = lambda *_: bias
    want = DeformableAttention.attend(layer, *exact[:3])
    got = triton_deformable_attention(*inputs, geometry)
    upstream = torch.randn(got.shape).to(dtype)
    gradients = torch.autograd.grad(got, inputs, upstream)
    wanted = torch.autograd.grad(want, exact, upstream.double())
    pairs = zip((got, *gradients), (want, *wanted), strict=True)
    return [((a - b).norm() / b.norm()).item() for a, b in pairs]


if __name__ == "__main__":
    for geometry in ("cvpr", "dat++"):
        assert max(found := largest_differences(geometry, torch.float32)) < 1e-5, (geometry, found)
    # instead of bfloat16, whose products the interpreter computes as integers
    assert max(found := largest_differences("cvpr", torch.float16)) < 0.01, found
