"""Neighborhood attention in tiles, compared with its definition, with gradients."""

import pytest
import torch
import torch.nn.functional as F
from einops import rearrange

from dat_train.models.neighborhood import NeighborhoodAttention, tiled_attention

CASES = [  # height, width, kernel
    (1, 1, 1), (7, 7, 7), (3, 8, 3), (14, 14, 7), (15, 14, 7), (16, 23, 5), (29, 15, 7), (22, 40, 11), (56, 28, 7),
]  # fmt: skip


def inputs(H, W, k, *, heads=2, d=4, batch=2, dtype=torch.float64):
    torch.manual_seed(0)
    qkv = torch.randn(batch, H, W, 3, heads, d, dtype=dtype)
    return qkv, torch.randn(heads, 2 * k - 1, 2 * k - 1, dtype=dtype)


def with_gradients(function, qkv, rpb, k):
    qkv, rpb = qkv.clone().requires_grad_(), rpb.clone().requires_grad_()
    out = function(qkv, rpb, k)
    weight = torch.randn(out.shape, dtype=out.dtype, generator=torch.Generator().manual_seed(1))
    (out * weight).sum().backward()
    return out.detach(), qkv.grad, rpb.grad


def by_definition(qkv, rpb, k):
    """Query after query, key after key."""
    _, H, W, _, _, d = qkv.shape
    q, key, value = qkv.unbind(3)
    out = torch.empty_like(q)
    for i in range(H):
        for j in range(W):
            top, left = min(max(i - k // 2, 0), H - k), min(max(j - k // 2, 0), W - k)
            near = [(y, x) for y in range(top, top + k) for x in range(left, left + k)]
            logits = torch.stack(
                [(q[:, i, j] * key[:, y, x]).sum(-1) * d**-0.5 + rpb[:, y - i + k - 1, x - j + k - 1] for y, x in near],
                -1,
            )  # (B, heads, k*k)
            values = torch.stack([value[:, y, x] for y, x in near], -2)  # (B, heads, k*k, d)
            out[:, i, j] = (logits.softmax(-1)[..., None] * values).sum(-2)
    return out


def gathered_attention(qkv, rpb, kernel_size):
    """Neighborhood attention with a copy of the k*k keys of every query.

    Args:
        qkv: (B, H, W, 3, M, C / M), H and W at least k.
        rpb: (M, 2k-1, 2k-1), bias by key minus query position plus k - 1.
        kernel_size: odd k.

    Returns:
        (B, H, W, M, C / M).
    """
    _, H, W, _, M, _ = qkv.shape
    k = kernel_size
    rows, columns = _neighbors(H, k, qkv.device), _neighbors(W, k, qkv.device)  # (H, k), (W, k)
    q = rearrange(qkv[:, :, :, 0], "b h w m d -> b (h w) m 1 d")
    kv = qkv[:, :, :, 1:][:, rows][:, :, :, columns]
    key, value = rearrange(kv, "b h i w j kv m d -> kv b (h w) m (i j) d")
    dy = rows - torch.arange(H, device=rows.device)[:, None] + k - 1
    dx = columns - torch.arange(W, device=rows.device)[:, None] + k - 1
    bias = rearrange(rpb[:, dy[:, None, :, None], dx[None, :, None, :]], "m h w i j -> 1 (h w) m 1 (i j)")
    out = F.scaled_dot_product_attention(q, key, value, attn_mask=bias.to(q.dtype))
    return rearrange(out, "b (h w) m 1 d -> b h w m d", h=H, m=M)


def _neighbors(size, k, device):
    """(size, k) positions of each query's neighbors along one axis."""
    first = (torch.arange(size, device=device) - k // 2).clamp(0, size - k)
    return first[:, None] + torch.arange(k, device=device)


@pytest.mark.parametrize(("H", "W", "k"), [(1, 1, 1), (5, 6, 3), (7, 9, 7), (16, 5, 5)])
def test_gathered_attention_agrees_with_the_definition(H, W, k):
    qkv, rpb = inputs(H, W, k)
    assert (gathered_attention(qkv, rpb, k) - by_definition(qkv, rpb, k)).abs().max() < 1e-12


@pytest.mark.parametrize(("H", "W", "k"), CASES)
def test_tiles_have_the_same_values_and_gradients(H, W, k):
    qkv, rpb = inputs(H, W, k)
    for ours, plain in zip(
        with_gradients(tiled_attention, qkv, rpb, k), with_gradients(gathered_attention, qkv, rpb, k), strict=True
    ):
        assert (ours - plain).abs().max() < 1e-11


def test_dropout_drops_whole_weights():
    qkv, rpb = inputs(16, 16, 3)
    qkv[..., 2, :, :] = 1  # every value is one: the output is the sum of weights that are left, over what is kept
    torch.manual_seed(0)
    out = tiled_attention(qkv, rpb, 3, dropout=0.5)
    assert out.mean().item() == pytest.approx(1, abs=0.05) and out.std() > 0.1
    assert torch.allclose(tiled_attention(qkv, rpb, 3), torch.ones_like(out))


def test_a_map_smaller_than_the_kernel_is_padded_with_zeros():
    torch.manual_seed(0)
    attention = NeighborhoodAttention(8, 2, 7).double()
    x = torch.randn(2, 3, 5, 8, dtype=torch.float64)
    padded = torch.nn.functional.pad(x, (0, 0, 0, 2, 0, 4))
    out = by_definition(attention.qkv(padded).view(2, 7, 7, 3, 2, 4), attention.rpb, 7)[:, :3, :5]
    assert (attention(x) - attention.proj(out.reshape(2, 3, 5, 8))).abs().max() < 1e-12


def test_tiles_keep_few_copies():
    """Gathered attention keeps 49 copies of keys and values for the backward pass, tiles less than a quarter."""

    def kept(function):
        total = []
        qkv, rpb = inputs(28, 28, 7, d=32, batch=4, dtype=torch.float32)
        with torch.autograd.graph.saved_tensors_hooks(lambda t: total.append(t.numel()) or t, lambda t: t):
            function(qkv.requires_grad_(), rpb.requires_grad_(), 7)
        return sum(total)

    assert kept(tiled_attention) < 0.25 * kept(gathered_attention)
