"""The average of the weights."""

import pytest
import torch
from timm.utils import ModelEmaV2

from dat_train.training.ema import Ema


def a_model() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.Dropout(0.5))


def test_the_average_is_the_recursion_and_short_at_the_beginning():
    model = a_model().double()
    ema = Ema(model, 0.5)
    expected = model[0].weight.detach().clone()
    for step in range(30):
        with torch.no_grad():
            model[0].weight += torch.randn(4, 3)
        ema.update(model, step)
        decay = min(0.5, (1 + step) / (10 + step))  # 0.1, 2/11, ... and 0.5 from step 8 on
        expected = decay * expected + (1 - decay) * model[0].weight.detach()
        assert (ema.model[0].weight - expected).abs().max() < 1e-12


def test_without_warm_up_the_decay_is_constant_as_in_timm():
    model = a_model()
    ours, theirs = Ema(model, 0.9, warmup=False), ModelEmaV2(model, 0.9)
    for step in range(5):
        with torch.no_grad():
            model[0].weight += torch.randn(4, 3)
        ours.update(model, step)
        theirs.update(model)
    torch.testing.assert_close(ours.model[0].weight, theirs.module[0].weight)


def test_buffers_are_copies_of_the_current_ones():
    model = a_model()
    ema = Ema(model, 0.9)
    model(torch.randn(8, 3))
    ema.update(model, 0)
    assert ema.model[1].num_batches_tracked == 1
    assert torch.equal(ema.model[1].running_mean, model[1].running_mean)


def test_the_average_is_in_evaluation_mode_without_gradients():
    model = a_model()
    ema = Ema(model, 0.9)
    assert not ema.model.training and model.training
    assert not any(parameter.requires_grad for parameter in ema.model.parameters())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_an_average_with_decay_zero_equals_the_model():
    model = a_model()
    ema = Ema(model, 0.0)
    with torch.no_grad():
        model[0].weight.fill_(3.0)
    ema.update(model, 1000)
    assert ema.model[0].weight.unique().tolist() == pytest.approx([3.0])
