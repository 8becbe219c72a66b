"""Running averages of batch normalization, once a step."""

import torch

from dat_train.models.batch_norm import BatchNorm2d, apply_running_averages, defer_running_averages


def test_two_micro_batches_move_the_averages_once_by_their_mean():
    torch.manual_seed(0)
    first, second = torch.randn(4, 3, 5, 5) + 2, torch.randn(4, 3, 5, 5)
    layer, plain = BatchNorm2d(3), torch.nn.BatchNorm2d(3)
    defer_running_averages(layer)
    for images in (first, second):
        assert torch.allclose(layer(images), plain(images), atol=1e-6)
    assert layer.running_mean.eq(0).all()
    apply_running_averages(layer, lambda value: value, 2)
    mean = (first.mean((0, 2, 3)) + second.mean((0, 2, 3))) / 2
    assert torch.allclose(layer.running_mean, 0.1 * mean, atol=1e-6)
    assert layer.num_batches_tracked == 1 and layer.pending == []


def test_statistics_that_are_not_finite_are_left_out():
    layer = BatchNorm2d(3)
    defer_running_averages(layer)
    layer(torch.full((2, 3, 4, 4), torch.nan))
    apply_running_averages(layer, lambda value: value, 1)
    assert torch.isfinite(layer.running_mean).all() and torch.isfinite(layer.running_var).all()
