"""Golden records of the dense models: what the published implementations compute with formula weights."""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from timm.models._features import FeatureGetterNet
from torch import Tensor, nn

from dat_train.models.dense_backbone import DenseBackbone
from dat_train.models.weights.published_dense import rename_published_dense
from golden import build
from golden.dense.weights import dense_state_dict
from golden.weights import formula_image

FOLDER = Path(__file__).parent


@dataclass
class DenseGolden:
    """One record: the JSON file, the tensors, our model with the formula weights, and the input."""

    record: dict
    tensors: dict[str, Tensor]
    model: nn.Module
    images: Tensor


def read_record(name: str) -> dict:
    return json.loads((FOLDER / f"{name}.json").read_text())


def backbone(record: dict) -> DenseBackbone:
    """Our backbone for a record's published configuration."""
    config = record["config"]["backbone"]
    indices = config["out_indices"]
    body = FeatureGetterNet(build(config, num_classes=0), out_indices=indices)
    return DenseBackbone(body, [config["dims"][i] for i in indices])


def load_dense(name: str, build_model) -> DenseGolden:
    """The record `name` with the model that `build_model(record)` makes, filled with the formula weights."""
    record = read_record(name)
    model = build_model(record)
    model.load_state_dict(rename_published_dense(dense_state_dict(record), model))
    size = record["input"]
    images = formula_image(size["n"], size["height"], size["width"])
    return DenseGolden(record, load_file(FOLDER / f"{name}.safetensors"), model.eval(), images)


def published_gradient_norms(golden: DenseGolden) -> dict[str, float]:
    """Norms of our gradients under the published names: every element is marked with the name it came from."""
    names = list(golden.record["grad_norms"])
    marks = {name: torch.full(golden.record["state"][name], float(i)) for i, name in enumerate(names)}
    marks = rename_published_dense(marks, golden.model)
    norms = {}
    for name, parameter in golden.model.named_parameters():
        for mark in marks[name].unique().tolist():
            norms[names[int(mark)]] = parameter.grad[marks[name] == mark].norm().item()
    return norms


def assert_gradients_agree(golden: DenseGolden, tolerance: float) -> None:
    """All norms within the tolerance, with an absolute floor of 1e-5 of the largest."""
    want = golden.record["grad_norms"]
    norms = published_gradient_norms(golden)
    assert norms.keys() == want.keys()
    floor = 1e-5 * max(want.values())
    off = {
        name: (norms[name], want[name])
        for name in want
        if abs(norms[name] - want[name]) > tolerance * want[name] + floor
    }
    assert off == {}


def assert_buffers_agree(golden: DenseGolden) -> None:
    """BatchNorm buffers after one training forward."""
    after = {name.removeprefix("after."): value for name, value in golden.tensors.items() if name.startswith("after.")}
    ours = golden.model.state_dict()
    renamed = rename_published_dense(after, golden.model)
    assert renamed
    for name, value in renamed.items():
        assert (ours[name] - value).abs().max() < 1e-4, name
