"""Training and evaluation on a fake CUDA device: all tensors are there, and the host does not wait for it.

Of tensors without content torch computes shapes and devices alone, refuses to mix devices, and refuses to hand out a
number. Its engine of gradients wants a real device: gradients are ones here.
"""

from contextlib import nullcontext

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from training.small_run import CLASSES, small_training, tiny_model

from dat_train.evaluation import classification
from dat_train.runtime.precision import Precision
from dat_train.runtime.processes import Processes
from dat_train.training.optimizer import build_optimizer

CUDA = torch.device("cuda", 0)
DAT_PP = {
    "blocks": ("N", "N", "ND", "D"), "kernel_size": 3, "geometry": "dat++", "conv_stem": True, "dwconv_mlp": True,
    "local_perception": True, "layer_scale": 1e-5,
}  # fmt: skip


def move(model: nn.Module, mode: FakeTensorMode) -> None:
    """Weights and buffers without content on a GPU, which need not exist."""
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            setattr(module, name, nn.Parameter(mode.from_tensor(parameter.detach()).to(CUDA)))
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, mode.from_tensor(buffer).to(CUDA))


@pytest.fixture
def deterministic(request):
    torch.use_deterministic_algorithms(request.param)
    yield request.param
    torch.use_deterministic_algorithms(False)


class Batches:
    def __init__(self, batches):
        self.batches = iter(batches)

    def next(self, step, turn):
        return next(self.batches)


@pytest.mark.parametrize("deterministic", [False, True], indirect=True)
@pytest.mark.parametrize("variant", [{}, DAT_PP], ids=["cvpr", "dat++"])
def test_a_training_step_stays_on_the_device(variant, deterministic, tmp_path, monkeypatch):
    one = small_training(tmp_path, model=tiny_model(**variant), max_steps=2)
    model, batches = one.state.model, list(one.make_loader(0))

    def ones(loss: torch.Tensor) -> None:
        assert loss.device == CUDA and loss.requires_grad
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)

    monkeypatch.setattr(torch.Tensor, "backward", ones)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        move(model, mode)
        move(one.state.ema.model, mode)
        one.state.optimizer = build_optimizer(model, lr=1e-3, weight_decay=0.05)
        one.processes, one.task.precision = Processes(0, 1, 0, CUDA), Precision("fp32", torch.float32, None, CUDA)
        one.forward, one.feed = model, Batches(batches)
        for _ in range(2):
            loss, _, _ = one._gradients()
            numbers = one._update(loss)
            one.state.step += 1
            assert numbers.device == CUDA and numbers.shape == (4,)
        assert all(parameter.device == CUDA for parameter in one.state.ema.model.parameters())
        with pytest.raises(DataDependentOutputException):
            numbers[0].item()  # the steps asked for none


class TransferError(Exception):
    """The transfer at the end."""


def test_evaluation_stays_on_the_device_until_its_end(tmp_path, monkeypatch):
    """With a subset of the classes and several valid labels for an image."""
    one = small_training(tmp_path)
    model, batches = one.state.model, list(one.val_loader)

    def at_the_end(results, unreadable, processes) -> None:
        assert len(results) == len(batches)
        assert all(part.device == CUDA for _, *parts in results for part in parts)
        raise TransferError

    monkeypatch.setattr(classification, "gather_by_index", at_the_end)
    # in inference mode torch tries a real transfer
    monkeypatch.setattr(torch, "inference_mode", lambda mode=True: torch.no_grad() if mode else nullcontext())
    monkeypatch.setattr(classification, "_check_labels", lambda labels, num_classes: None)  # on the host
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        move(model, mode)
        choices = {"num_classes": CLASSES, "subset": [0, 1, 2], "valid_labels": torch.zeros(50, 2, dtype=torch.long)}
        with pytest.raises(TransferError):
            classification.evaluate(model, batches, precision=Precision("fp32", torch.float32, None, CUDA), **choices)
