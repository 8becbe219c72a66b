"""Recorded attention weights and positions equal those of the model."""

from itertools import pairwise

import numpy as np
import pytest
import timm
import torch

import dat_train.models  # noqa: F401  registers the models
from dat_train.models import record_attention
from dat_train.models.deformable import sample_bilinear
from dat_train.viewer.attention import attention_weights, inspect_image, mean_weights, position_to_pixel
from dat_train.viewer.tracing import most_attended_pixels, trace

MEAN, STD = (0.5,) * 3, (0.25,) * 3
TINY = {"dims": (8, 16, 16, 24), "depths": (1, 2, 2, 2), "num_heads": (1, 2, 4, 3), "groups": (1, 2, 2, 3)}
VARIANTS = {
    "cvpr": {},
    "fixed": {"position_bias": "fixed"},
    "log_cpb": {"position_bias": "log_cpb"},
    "dwc": {"position_bias": "dwc"},
    "dat++": {"geometry": "dat++", "offset_range_factor": None, "strides": (8, 4, 2, 1)},
    "pooled": {"geometry": "dat++", "offset_range_factor": None, "offsets": False, "strides": (8, 4, 2, 1)},
}


def tiny(size=32, **kwargs):
    """A model with large offsets and biases."""
    torch.manual_seed(0)
    model = timm.create_model("dat_nano", num_classes=10, img_size=size, **(TINY | kwargs)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".sampling.proj." in name or ".bias.table" in name or ".q.weight" in name:
                parameter.mul_(20)
    return model.double()


@pytest.fixture(scope="module")
def seen():
    model = tiny()
    return model, inspect_image(model, torch.randn(3, 32, 32, dtype=torch.float64), MEAN, STD)


@pytest.mark.parametrize("variant", VARIANTS)
def test_recomputed_attention_times_values_is_the_layers_own_output(variant):
    model = tiny(**VARIANTS[variant])
    outputs = {}
    for name, module in model.named_modules():
        if name.endswith(".attn"):
            module.register_forward_hook(lambda _m, _i, output, name=name: outputs.__setitem__(name, output))
    with torch.inference_mode(), record_attention(model) as attended:
        model(torch.randn(2, 3, 32, 32, dtype=torch.float64))
        assert list(attended) == [f"stages.{i}.blocks.1.attn" for i in (1, 2, 3)]
        for name, recorded in attended.items():
            attention, x, (positions, _) = recorded
            B, H, W, C = x.shape
            weights = attention_weights(recorded)  # (B, heads, queries, keys)
            assert torch.allclose(weights.sum(-1), torch.ones((), dtype=weights.dtype))
            features = attention.features(x, positions)
            v = (
                attention.kv(features)[..., C:]
                .view(B, -1, attention.num_heads, C // attention.num_heads)
                .transpose(1, 2)
            )
            out = (weights @ v).transpose(1, 2).reshape(B, H, W, C)
            if attention.dwc is not None:
                out = out + attention.dwc(attention.q(x))
            assert torch.allclose(attention.proj(out), outputs[name], atol=1e-9)


def test_recording_removes_its_hooks_and_keeps_the_logits(seen):
    model, _ = seen
    image = torch.randn(1, 3, 32, 32, dtype=torch.float64)
    with torch.inference_mode():
        before = model(image)
        with record_attention(model):
            assert torch.equal(model(image), before)
    assert not any(module._forward_hooks for module in model.modules())


def test_layers_are_counted_from_one_and_positioned_in_input_pixels(seen):
    _, found = seen
    assert [layer.title for layer in found.layers] == ["stage 2, block 2", "stage 3, block 2", "stage 4, block 2"]
    assert [layer.reduction for layer in found.layers] == [4, 8, 16]
    assert [layer.size for layer in found.layers] == [(8, 8), (4, 4), (2, 2)]
    assert [layer.groups for layer in found.layers] == [2, 2, 3]
    assert found.image.shape == (32, 32, 3) and found.probabilities.sum() == pytest.approx(1)
    for layer in found.layers:
        assert np.allclose(layer.attention.sum(-1), 1) and np.allclose(layer.by_group().sum(-1), 1)


def test_weights_of_chosen_queries_and_their_mean_equal_the_full_weights(seen):
    _, found = seen
    for layer in found.layers:
        assert np.allclose(layer.by_group([3, 0]), layer.by_group()[:, [3, 0]])
        assert np.allclose(layer.received, layer.by_group().mean(1) / layer.groups, atol=1e-6)
        parts = mean_weights(layer.recorded, at_once=3)
        assert np.allclose(parts[0].numpy(), layer.attention.mean(1), atol=1e-6)


def test_centers_of_border_cells_have_positions_minus_one_and_one():
    corners = np.array([[-1, -1], [1, 1], [-1, 1], [0, 0]], float)  # (y, x)
    assert position_to_pixel(corners, (4, 8), 8).tolist() == [[4, 4], [60, 28], [60, 4], [32, 16]]  # (x, y)


def test_a_point_in_pixels_is_where_sampling_reads():
    """A map of pixel coordinates, sampled at a position, gives the pixel at which the point is drawn."""
    size, reduction = (5, 7), 8
    y, x = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in size), indexing="ij")
    own_pixels = (torch.stack([x, y], dim=-1)[None] + 0.5) * reduction  # (1, H, W, 2)
    positions = torch.rand(1, 1, 3, 3, 2, dtype=torch.float64) * 2 - 1
    sampled = sample_bilinear(own_pixels, positions)[0].numpy()
    assert np.allclose(position_to_pixel(positions.reshape(-1, 2).numpy(), size, reduction), sampled)


def test_a_pixel_belongs_to_the_query_of_its_cell(seen):
    _, found = seen
    layer = found.layers[0]
    assert [layer.query_at(pixel) for pixel in layer.queries] == list(range(64))
    assert layer.query_at((0, 0)) == 0 and layer.query_at((31.9, 4)) == 15  # 8 x 8 cells of 4 pixels
    assert layer.query_at((-5, 500)) == 56  # outside the picture: the nearest cell


def test_the_heat_map_sums_to_the_attention_inside(seen):
    _, found = seen
    for layer in found.layers:
        outside = 1 - layer.heat().sum()
        assert -1e-6 <= outside < 1
        assert (outside > 1e-6) == bool(layer.outside().any())
        assert found.on_pixels(layer, layer.heat()).sum() == pytest.approx(layer.heat().sum())
    assert any(layer.outside().any() for layer in found.layers)


def test_tracing_multiplies_weights_and_records_parents(seen):
    _, found = seen
    (levels,) = trace(found.layers, [np.array([[20, 9]])], keys=3)
    assert [len(level.points) for level in levels[:2]] == [1, 3]
    last = found.layers[-1]
    shares = (last.by_group() / last.groups)[:, last.query_at((20, 9))].reshape(-1)
    assert np.allclose(levels[1].weights, np.sort(shares)[::-1][:3])
    for above, level in pairwise(levels):
        assert level.weights.sum() <= above.weights.sum() + 1e-9
        assert set(level.parents.tolist()) <= set(range(len(above.points)))
    (everything,) = trace(found.layers[-1:], [np.array([[20, 9]])], keys=10**6)
    assert everything[1].weights.sum() == pytest.approx(1)


def test_a_region_is_traced_from_the_mean_of_its_queries(seen):
    _, found = seen
    last = found.layers[-1]
    (levels,) = trace(found.layers[-1:], [np.array([[4, 4], [20, 20]])], keys=10**6)
    mean = (last.by_group([0, 3]) / last.groups).mean(1).reshape(-1)
    assert np.allclose(levels[1].weights, np.sort(mean)[::-1])


def test_the_most_attended_pixels_are_separated():
    heat = np.zeros((50, 100))
    heat[10, 20], heat[11, 22], heat[40, 80] = 3, 2, 1
    assert most_attended_pixels(heat, 2) == [(20.5, 10.5), (80.5, 40.5)]
