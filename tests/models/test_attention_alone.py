"""DeformableAttention alone, on any (B, H, W, C) map, in all its variants."""

import pytest
import torch

from dat_train.errors import UserError
from dat_train.models import DeformableAttention

SIZES = [(1, 1), (1, 9), (2, 3), (7, 5), (8, 8), (13, 21), (40, 3)]
KINDS = {
    "cvpr": {},
    "dat++": {"geometry": "dat++", "offset_range_factor": None, "kernel_size": 3, "stride": 2},
    "strided as wide as its kernel": {"geometry": "dat++", "kernel_size": 4, "stride": 4},
    "fixed": {"position_bias": "fixed"},
    "log-cpb": {"position_bias": "log_cpb"},
    "dwc": {"position_bias": "dwc"},
    "grid": {"offsets": False, "position_bias": "none"},
    "pooled": {"offsets": False, "geometry": "dat++", "stride": 2},
}


@pytest.mark.parametrize("kind", KINDS)
def test_any_map_gives_a_map_of_its_shape_and_gradients(kind):
    torch.manual_seed(0)
    attention = DeformableAttention(dim=12, num_heads=4, groups=2, size=(8, 8), **KINDS[kind])
    for size in SIZES:
        if min(size) < 4 and kind == "strided as wide as its kernel":
            continue  # a kernel without padding needs as many pixels
        x = torch.randn(2, *size, 12, requires_grad=True)
        y = attention(x)
        assert y.shape == x.shape and y.isfinite().all()
        y.square().sum().backward()
        assert x.grad.isfinite().all() and x.grad.abs().sum() > 0, size


def test_an_input_may_be_a_view_that_is_not_contiguous():
    """As permute(0, 2, 3, 1) of a CNN's map is."""
    torch.manual_seed(0)
    attention = DeformableAttention(dim=8, num_heads=2, groups=1, size=(6, 6)).eval()
    x = torch.randn(2, 8, 6, 10).permute(0, 2, 3, 1)
    assert torch.allclose(attention(x), attention(x.contiguous()), atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_near_float32(dtype):
    torch.manual_seed(0)
    attention = DeformableAttention(dim=16, num_heads=2, groups=2, size=(9, 9)).eval()
    x = torch.randn(1, 9, 14, 16)
    want = attention(x)
    got = attention.to(dtype)(x.to(dtype))
    assert got.dtype == dtype
    assert (got.float() - want).norm() / want.norm() < 0.1


def test_images_of_a_batch_are_independent():
    torch.manual_seed(0)
    attention = DeformableAttention(dim=8, num_heads=2, groups=2, size=(5, 5)).eval()
    x = torch.randn(3, 5, 7, 8)
    assert torch.allclose(attention(x)[1:2], attention(x[1:2]), atol=1e-6)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"num_heads": 5}, "dim=12 must be a multiple of num_heads=5"),
        ({"groups": 3}, "num_heads a multiple of groups=3"),
        ({"position_bias": "tabel"}, "one of table, fixed"),
        ({"geometry": "dat"}, "one of cvpr, dat"),
    ],
)
def test_wrong_arguments_are_named(wrong, message):
    with pytest.raises(UserError, match=message):
        DeformableAttention(**({"dim": 12, "num_heads": 4, "groups": 2, "size": (8, 8)} | wrong))
