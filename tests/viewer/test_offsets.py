"""Statistics of offsets; measuring them does not change a run."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from training.small_run import run_small, tiny_model

from dat_train.models import load_weights
from dat_train.models.deformable import SamplingPositions, reference_grid
from dat_train.models.recording import Sampling, record_sampling
from dat_train.run_report.curves import write_curves
from dat_train.viewer.offsets import OffsetMonitor, offset_statistics

LAYER = SamplingPositions(8, groups=1, kernel_size=3, stride=1, offset_range_factor=2.0, geometry="cvpr")
FREE = SamplingPositions(8, groups=1, kernel_size=3, stride=1, offset_range_factor=None, geometry="dat++")


def shifted(layer, shift, keys=4):
    """Statistics of a grid of keys x keys points, all shifted by (dy, dx) in [-1, 1]."""
    reference = reference_grid(keys, keys, layer.geometry, torch.zeros(()))
    positions = (reference + torch.tensor(shift))[None, None]
    return offset_statistics(layer, Sampling(positions, reference)).tolist()


def test_the_offset_length_is_in_cells_of_the_reference_grid():
    assert shifted(LAYER, (0.3, 0.4)) == pytest.approx([1.0, 0, 7 / 16])  # 4 points in a row: cells of 0.5
    assert shifted(FREE, (0.0, 0.4), keys=5)[0] == pytest.approx(0.8)  # 5 points, DAT++: cells of 0.5
    assert shifted(LAYER, (0.0, 0.0)) == [0, 0, 0]


def test_offsets_near_the_range_of_tanh_are_at_the_limit():
    assert shifted(LAYER, (0.0, 0.499))[1] == 1  # range 2 is 2 / 4 along an axis
    assert shifted(LAYER, (0.0, 0.49))[1] == 0
    torch.manual_seed(0)
    with torch.no_grad():
        LAYER.proj.weight.mul_(1000)
    positions, reference = LAYER(torch.randn(2, 6, 6, 8))
    assert offset_statistics(LAYER, Sampling(positions, reference))[1] > 0.9


def test_unlimited_offsets_are_at_the_limit_of_positions():
    reference = reference_grid(4, 4, "dat++", torch.zeros(()))
    positions = torch.zeros(1, 1, 4, 4, 2)
    positions[..., 0, :, 0] = -1  # a row of four at the upper border
    assert offset_statistics(FREE, Sampling(positions, reference))[1:].tolist() == [0.25, 0]


def test_measuring_is_exact_and_keeps_modes_and_random_state():
    model = tiny_model().train()
    model.stem.eval()  # a frozen module
    images = torch.randn(2, 3, 32, 32)
    watch = OffsetMonitor(5, lambda: [images])
    assert [step for step in range(1, 12) if watch.is_due(step)] == [5, 10]
    torch.manual_seed(1)
    found = watch.measure(model)
    assert torch.equal(torch.rand(1), torch.rand(1, generator=torch.Generator().manual_seed(1)))
    modes = {name: module.training for name, module in model.named_modules()}
    assert all(training != name.startswith("stem") for name, training in modes.items())
    with torch.no_grad(), record_sampling(model.eval()) as layers:
        model(images)
    layer = model.stages[2].blocks[1].attn.sampling
    expected = offset_statistics(layer, layers["stages.2.blocks.1.attn"])
    names = [f"{measure}/stage3.block2" for measure in ("offset_length", "offset_at_limit", "offset_outside")]
    assert [found[name] for name in names] == list(expected)


def rows(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").open()]


def test_a_run_with_measurements_has_identical_weights(tmp_path):
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    run_small(tmp_path / "plain", max_steps=5)
    run_small(tmp_path / "watched", max_steps=5, offsets=OffsetMonitor(2, lambda: [images]))
    plain, watched = (rows(tmp_path / name) for name in ("plain", "watched"))
    measured = [{name: row.pop(name) for name in list(row) if name.startswith("offset_")} for row in watched]
    assert [len(values) for values in measured] == [0, 3, 0, 0, 3, 0, 0]  # one deformable layer; two validations
    assert watched == plain
    assert measured[1] != measured[4]  # the offsets change
    weights = [tiny_model() for _ in range(2)]
    for model, name in zip(weights, ("plain", "watched"), strict=True):
        load_weights(model, tmp_path / name / "checkpoints/last.pt", ema=False)
    for a, b in zip(weights[0].parameters(), weights[1].parameters(), strict=True):
        assert torch.equal(a, b)

    # the curves have a second row
    heights = []
    for name in ("plain", "watched"):
        write_curves(tmp_path / name / "metrics.jsonl", tmp_path / f"{name}.png")
        heights.append(np.asarray(Image.open(tmp_path / f"{name}.png")).shape[0])
    assert heights[1] == pytest.approx(2 * heights[0], abs=2)
