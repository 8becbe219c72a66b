"""Costs of accelerated models as counts, which do not depend on the machine: operators, copies, bytes, graphs."""

import pytest
import timm
import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

import dat_train.models  # noqa: F401  registers the models
from dat_train.benchmark.models import Candidate
from dat_train.benchmark.peak_memory import peak_memory

CPU = torch.device("cpu")


def candidate(name, **kwargs):
    settings = {"size": 224, "batch_size": 2, "device": CPU, "weights": torch.float32, "autocast": None}
    return Candidate(name, **settings | kwargs, compiled=False)


@pytest.fixture(scope="module")
def dat():
    return candidate("dat_tiny")


def counts(task):
    """Calls of every operator."""
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        task()
    return {event.key: event.count for event in profiler.key_averages()}


@pytest.fixture(scope="module")
def swin():
    return candidate("swin_tiny_patch4_window7_224")


COPYING = ("copy_", "clone", "_to_copy", "cat", "stack", "roll", "index_select", "constant_pad_nd", "flip")
FILLING = ("fill_", "zero_", "zeros", "new_zeros", "zeros_like", "full", "full_like", "ones_like")


class WrittenElements(TorchDispatchMode):
    """Counts the elements that are written by the operators of these names."""

    def __init__(self, names):
        super().__init__()
        self.names = names
        self.total = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if func.overloadpacket.__name__ in self.names:
            self.total += out.numel()
        return out


def written(names, task):
    with WrittenElements(names) as counter:
        task()
    return counter.total


def test_a_training_step_copies_less_than_swins(dat, swin):
    assert written(COPYING, dat.training) < 0.9 * written(COPYING, swin.training)


def test_a_training_step_fills_few_elements_with_zeros(dat):
    """In particular no gradient of the kept attention weights, which is not needed."""
    dat.training()  # the first step makes the optimizer's moments
    assert written(FILLING, dat.training) < 500_000


def test_slow_operators_are_not_called(dat):
    """The math path of attention, index_put for bias tables, a bias sampled for a whole batch at once."""
    calls = counts(dat.training)
    slow = {"aten::_safe_softmax", "aten::_scaled_dot_product_attention_math", "aten::_index_put_impl_", "aten::all"}
    assert not slow & calls.keys()
    assert 12 <= calls["aten::_softmax_backward_data"] <= 20  # twelve layers, of one or two parts each
    # four deformable layers, of one or two parts each
    assert 4 <= calls["aten::grid_sampler_2d"] == calls["aten::grid_sampler_2d_backward"] <= 8


def test_a_training_step_takes_less_memory_than_swin(dat, swin):
    peaks = []
    for model in (dat, swin):
        model.training()
        model.optimizer.zero_grad()
        peaks.append(peak_memory(model.training, model.held(), CPU))
    assert peaks[0] < peaks[1]


def graphs_of(shapes):
    """Graphs that torch.compile makes of a small DAT for inputs of these shapes, one after the other."""
    sizes = {"depths": (1, 1, 2, 1), "dims": (8, 16, 24, 32), "num_heads": (1, 2, 3, 4), "groups": (1, 1, 1, 2)}
    model = timm.create_model("dat_nano", num_classes=3, **sizes)
    graphs = 0

    def backend(graph, _inputs):
        nonlocal graphs
        graphs += 1
        return graph.forward

    compiled = torch.compile(model.eval(), backend=backend, fullgraph=True)
    with torch.no_grad():
        for shape in shapes:
            compiled(torch.randn(shape))
    return graphs


@pytest.mark.long
def test_one_graph_serves_the_batch_sizes_of_a_run():
    """A last batch that is smaller costs one more compilation, with the size left open; a third costs none."""
    assert graphs_of([(batch, 3, 32, 32) for batch in (4, 4, 3, 2, 7)]) <= 2


@pytest.mark.slow
def test_three_graphs_serve_all_image_sizes():
    """The second size leaves the size open, for which torch traces a minute or more; one more is for padded windows."""
    assert graphs_of([(2, 3, side, side) for side in (64, 96, 128, 192, 224, 64, 96)]) <= 3
