"""Running averages of batch normalization, once a step."""

import pytest
import timm
import torch
from timm.layers import BatchNormAct2d

from dat_train.models.batch_norm import apply_running_averages, defer_running_averages


def alone(value):
    """Sum over one process."""
    return value


@pytest.mark.parametrize("kind", [torch.nn.BatchNorm2d, BatchNormAct2d])
def test_two_micro_batches_move_the_averages_once_by_their_mean(kind):
    torch.manual_seed(0)
    first, second = torch.randn(4, 3, 5, 5) + 2, torch.randn(4, 3, 5, 5)
    layer, plain = kind(3), kind(3)
    defer_running_averages(layer)
    for images in (first, second):
        assert torch.equal(layer(images), plain(images))
    assert layer.running_mean.eq(0).all() and layer.num_batches_tracked == 0
    apply_running_averages(layer, alone)
    mean = (first.mean((0, 2, 3)) + second.mean((0, 2, 3))) / 2
    variance = (first.var((0, 2, 3)) + second.var((0, 2, 3))) / 2
    torch.testing.assert_close(layer.running_mean, 0.1 * mean)
    torch.testing.assert_close(layer.running_var, 0.9 + 0.1 * variance)
    assert layer.num_batches_tracked == 1 and layer.pending == []


def test_one_micro_batch_moves_the_averages_as_pytorch_does():
    images = torch.randn(4, 3, 5, 5)
    for momentum in (0.1, None):
        layer, plain = (torch.nn.BatchNorm2d(3, momentum=momentum) for _ in range(2))
        defer_running_averages(layer)
        for shift in range(3):
            layer(images + shift)
            apply_running_averages(layer, alone)
            plain(images + shift)
        torch.testing.assert_close(layer.state_dict(), plain.state_dict())


def test_gradients_are_those_of_pytorch_also_after_a_second_forward():
    images = torch.randn(4, 3, 5, 5)
    layer, plain = torch.nn.BatchNorm2d(3), torch.nn.BatchNorm2d(3)
    defer_running_averages(layer)
    for module in (layer, plain):
        (module(images).square() * images).sum().backward()
        loss = (module(images + 1) * images).sum()
        module(images)
        loss.backward()
    assert torch.equal(layer.weight.grad, plain.weight.grad)


def test_gradient_checkpointing_does_not_change_the_averages():
    models = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        model = timm.create_model("test_resnet", num_classes=3).train()
        model.set_grad_checkpointing(checkpointing)
        defer_running_averages(model)
        model(torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))).sum().backward()
        apply_running_averages(model, alone)
        models.append(model)
    torch.testing.assert_close(models[0].state_dict(), models[1].state_dict())


def test_evaluation_uses_the_averages_and_collects_nothing():
    layer = torch.nn.BatchNorm2d(3)
    defer_running_averages(layer)
    images = torch.randn(2, 3, 4, 4)
    assert torch.allclose(layer.eval()(images), images, atol=1e-4) and layer.pending == []
    apply_running_averages(layer, alone)
    assert layer.num_batches_tracked == 0


def test_statistics_that_are_not_finite_are_left_out():
    layer = torch.nn.BatchNorm2d(3)
    defer_running_averages(layer)
    layer(torch.full((2, 3, 4, 4), torch.nan))
    apply_running_averages(layer, alone)
    assert torch.isfinite(layer.running_mean).all() and torch.isfinite(layer.running_var).all()
