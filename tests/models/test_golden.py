"""Our models against the numbers of the published implementation."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from golden import CVPR, DATPP, load_golden

from dat_train.models.recording import record_sampling
from dat_train.models.weights.published_names import rename_published
from dat_train.training.optimizer import parameter_groups

RECORDS = CVPR + DATPP


@pytest.mark.parametrize("name", RECORDS)
def test_parameter_count_is_exact(name):
    golden = load_golden(name)
    assert sum(parameter.numel() for parameter in golden.model.parameters()) == golden.record["params"]


@pytest.mark.parametrize("name", RECORDS)
def test_logits_stages_and_sampling_positions_agree(name):
    golden = load_golden(name)
    with torch.no_grad(), record_sampling(golden.model) as layers:
        features, stages = golden.model.forward_intermediates(golden.images)
        logits = golden.model.forward_head(features)
    want = golden.tensors
    assert (logits - want["logits"]).abs().max() < 1e-4
    for stage in (0, 1):
        assert (stages[stage].mean(1) - want[f"stage{stage}.mean"]).abs().max() < 1e-4
    for stage in (2, 3):
        scale = want[f"stage{stage}"].abs().max().clamp(min=1)  # stage outputs reach 30 in magnitude
        assert ((stages[stage] - want[f"stage{stage}"]) / scale).abs().max() < 1e-4
    recorded = [key.removesuffix(".pos") for key in want if key.endswith(".pos")]
    assert len(recorded) == len(layers) > 0
    for key in recorded:
        ours = layers[key.replace(".attns.", ".blocks.") + ".attn"]
        assert (ours.positions - want[f"{key}.pos"]).abs().max() < 1e-4
        assert (ours.reference - want[f"{key}.ref"]).abs().max() < 1e-4


@pytest.mark.parametrize("name", RECORDS)
def test_gradients_agree(name):
    golden = load_golden(name)
    images = golden.images.requires_grad_()
    logits = golden.model(images)
    weight = torch.from_numpy(np.random.RandomState(1).standard_normal(tuple(logits.shape)).astype(np.float32))
    (logits * weight).sum().backward()
    want = golden.tensors["grad.input.pooled"]
    assert (F.avg_pool2d(images.grad, 8) - want).abs().max() < 1e-4 * max(1, want.abs().max())
    norms = _published_gradient_norms(golden)
    assert norms.keys() == golden.record["grad_norms"].keys()
    for published, norm in golden.record["grad_norms"].items():
        assert norms[published] == (norm if norm is None else pytest.approx(norm, rel=1e-3, abs=1e-4)), published


def _published_gradient_norms(golden) -> dict[str, float | None]:
    """Norm of our gradients, gathered by published parameter: every element is marked with the name it came from."""
    state = golden.record["state"]
    names = list(golden.record["grad_norms"])
    marks = rename_published({name: torch.full(state[name], float(i)) for i, name in enumerate(names)})
    norms = {}
    for name, parameter in golden.model.named_parameters():
        for mark in marks.get(name, torch.empty(0)).unique().tolist():
            if parameter.grad is None:  # a frozen offset network
                norms[names[int(mark)]] = None
            else:
                norms[names[int(mark)]] = parameter.grad[marks[name] == mark].norm().item()
    return norms


@pytest.mark.parametrize("name", RECORDS)
def test_five_adamw_steps_give_the_published_losses(name):
    golden = load_golden(name)
    model = golden.model.train()
    optimizer = torch.optim.AdamW(parameter_groups(model, 0.05), lr=1e-3, betas=(0.9, 0.999), eps=1e-8)
    losses = []
    for _ in range(5):
        loss = F.cross_entropy(model(golden.images), torch.tensor([3, 7]))
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
    assert losses == pytest.approx(golden.record["adamw_losses"], abs=1e-3)
