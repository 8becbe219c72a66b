"""One model, any input size, without rebuilding."""

import pytest
import timm
import torch

import dat_train.models  # noqa: F401  registers the models


@pytest.fixture(scope="module")
def tiny():
    torch.manual_seed(0)
    return timm.create_model("dat_tiny", num_classes=7).eval()


@pytest.mark.parametrize("size", [(32, 32), (33, 47), (64, 160), (97, 50), (128, 96), (130, 70)])
def test_any_size_square_or_not_gives_finite_logits_and_gradients(size):
    torch.manual_seed(0)
    model = timm.create_model("dat_nano", num_classes=3).eval()
    images = torch.randn(1, 3, *size, requires_grad=True)
    logits = model(images)
    assert logits.shape == (1, 3)
    logits.square().sum().backward()
    assert torch.isfinite(images.grad).all() and images.grad.abs().sum() > 0
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())


@pytest.mark.parametrize("size", [(32, 32), (96, 160), (225, 100)])
def test_the_published_size_takes_any_input_from_32_pixels_up(tiny, size):
    with torch.no_grad():
        features = tiny.forward_features(torch.randn(1, 3, *size))
    assert features.shape == (1, 768, size[0] // 32, size[1] // 32)
    assert torch.isfinite(features).all()


def test_padding_has_no_effect():
    """A window attention on a padded map gives what dense attention with the same bias gives inside one window."""
    from dat_train.models.window import WindowAttention

    torch.manual_seed(0)
    attention = WindowAttention(8, 2, 7).double()
    torch.nn.init.normal_(attention.relative_position_bias_table)
    x = torch.randn(2, 5, 6, 8, dtype=torch.double)
    q, k, v = attention.qkv(x).view(2, 30, 3, 2, 4).permute(2, 0, 3, 1, 4)
    y, x_ = torch.meshgrid(torch.arange(5), torch.arange(6), indexing="ij")
    dy = y.flatten()[:, None] - y.flatten()[None] + 6
    dx = x_.flatten()[:, None] - x_.flatten()[None] + 6
    bias = attention.relative_position_bias_table[dy * 13 + dx].permute(2, 0, 1)
    dense = ((q * 4**-0.5) @ k.transpose(-1, -2) + bias).softmax(-1) @ v
    want = attention.proj(dense.transpose(1, 2).reshape(2, 5, 6, 8))
    assert (attention(x) - want).abs().max() < 1e-12


@pytest.mark.parametrize("size", [(14, 14), (9, 14), (10, 16), (22, 8)])
def test_shifted_windows_of_a_padded_map_keep_regions_apart(size):
    """Brute force: roll the padded map, attend inside windows with -100 between regions, no attention to padding."""
    from dat_train.models.window import WindowAttention

    torch.manual_seed(0)
    H, W = size
    attention = WindowAttention(4, 1, 7, shifted=True).double()
    torch.nn.init.normal_(attention.relative_position_bias_table)
    x = torch.randn(1, H, W, 4, dtype=torch.double)
    got = attention(x)
    rows, columns = -(-H // 7) * 7, -(-W // 7) * 7
    sy, sx = (4 if rows > 7 else 0), (4 if columns > 7 else 0)
    q, k, v = attention.qkv(x).split(4, -1)
    out = torch.zeros_like(x)
    place = lambda i, n, s: (i - s) % n  # noqa: E731  where position i stands after rolling by s
    for i in range(H):
        for j in range(W):
            ri, rj = place(i, rows, sy), place(j, columns, sx)
            logits, values = [], []
            for m in range(H):
                for n in range(W):
                    rm, rn = place(m, rows, sy), place(n, columns, sx)
                    if ri // 7 != rm // 7 or rj // 7 != rn // 7:
                        continue
                    apart = (ri >= rows - sy) != (rm >= rows - sy) or (rj >= columns - sx) != (rn >= columns - sx)
                    index = (ri % 7 - rm % 7 + 6) * 13 + rj % 7 - rn % 7 + 6
                    bias = attention.relative_position_bias_table[index, 0] - 100.0 * apart
                    logits.append((q[0, i, j] * k[0, m, n]).sum() / 2 + bias)
                    values.append(v[0, m, n])
            out[0, i, j] = torch.stack(logits).softmax(0) @ torch.stack(values)
    assert (got - attention.proj(out)).abs().max() < 1e-10
