"""Measured times, memory and ratios are those of the tasks."""

import json
import time

import pytest
import torch

import dat_train.benchmark.attention
from dat_train.benchmark.attention import benchmark_attention, kernels_of
from dat_train.benchmark.clock import interleaved
from dat_train.benchmark.models import Candidate, benchmark_models
from dat_train.benchmark.peak_memory import peak_memory
from dat_train.benchmark.result import Result, compared
from dat_train.benchmark.tables import write_chart, write_json
from dat_train.errors import UserError

CPU = torch.device("cpu")
MEGABYTE = 1 << 20


def test_tasks_are_interleaved_and_warm_up_is_not_reported():
    calls = []
    tasks = {
        name: lambda name=name: (calls.append(name), time.sleep(0.002 * (name == "slow"))) for name in ("slow", "b")
    }
    seconds = interleaved(tasks, repeats=3, warmup=2, device=CPU)
    assert [len(values) for values in seconds.values()] == [3, 3]
    assert calls == ["b", "slow", "slow", "b"] * 2 + ["b", "slow"]
    assert min(seconds["slow"]) >= 0.002 > min(seconds["b"])


def test_peak_memory_is_the_maximum_over_time():
    held = torch.empty(MEGABYTE, dtype=torch.uint8)

    def task():
        a = torch.zeros(3 * MEGABYTE, dtype=torch.uint8)
        del a  # before the next two are made
        b = torch.zeros(2 * MEGABYTE, dtype=torch.uint8)
        c = torch.ones_like(b)
        return b.view(2, -1), c[:10]  # views take nothing

    assert peak_memory(task, [held], CPU) == 5 * MEGABYTE
    assert peak_memory(lambda: None, [held, held[3:]], CPU) == MEGABYTE


def test_memory_of_training_grows_with_the_batch_beyond_weights_and_optimizer():
    activations = []
    for batch_size in (4, 8):
        candidate = nano(batch_size=batch_size)
        candidate.training()
        candidate.optimizer.zero_grad()
        held = sum(3 * 4 * p.numel() for p in candidate.model.parameters())  # and the two moments
        activations.append(peak_memory(candidate.training, candidate.held(), CPU) - held)
    assert 1.6 < activations[1] / activations[0] < 2.1


def nano(**settings):
    shape = {"depths": (1, 1, 2, 1), "dims": (16, 32, 48, 64), "num_heads": (1, 2, 3, 4), "groups": (1, 1, 3, 2)}
    settings = {"size": 32, "batch_size": 2, "device": CPU, "weights": torch.float32, "autocast": None} | settings
    return Candidate("dat_nano", **settings, compiled=False, **shape)


def test_models_are_compared_in_the_same_mode(tmp_path):
    candidates = {"a": nano(), "b": nano(autocast=torch.bfloat16)}
    results = benchmark_models(candidates, ("inference", "training"), repeats=3, warmup=1, compiled=False)
    assert [(r.name, r.mode) for r in results] == [(n, m) for m in ("inference", "training") for n in "ab"]
    rows = compared(results, "a")
    for row in rows:
        assert row["latency"] > 0 and row["throughput"] == pytest.approx(2 / row["latency"]) and row["macs"] > 1e6
        assert row["memory"] > row["parameters"] * 4
        assert (row["speed_ratio"], row["memory_ratio"]) == (1, 1) or row["name"] == "b"
    write_json(tmp_path / "new" / "bench.json", {"device": "x"}, rows)
    read = json.loads((tmp_path / "new" / "bench.json").read_text())
    assert read["device"] == "x" and len(read["results"]) == 4 and len(read["results"][0]["seconds"]) == 3
    write_chart(tmp_path / "bench.png", "title", rows, "a")
    assert (tmp_path / "bench.png").stat().st_size > 5000


def test_ratio_is_the_median_over_rounds_of_throughput():
    base = Result("base", "inference", False, 4, [2.0, 4.0, 2.0])
    half = Result("half", "inference", False, 8, [8.0, 16.0, 80.0])  # twice the images in four times the time
    assert [row["speed_ratio"] for row in compared([base, half], "base")] == [1.0, 0.5]
    assert "speed_ratio" not in compared([base], None)[0]
    assert base.spread == 0.5 and Result("one", "inference", False, 1, [1.0]).spread == 0


@pytest.mark.parametrize("size", [7, 28])
def test_attention_is_measured_with_all_kernels(size):
    results = benchmark_attention(size, batch_size=1, device=CPU, dtype=torch.float32, repeats=1, warmup=1)
    assert len(results) == 2 * len(kernels_of(CPU)) and all(result.memory for result in results)


def test_kernels_that_do_not_work_are_left_out_with_a_warning(monkeypatch):
    monkeypatch.setattr(dat_train.benchmark.attention, "kernels_of", lambda _: ["plain", "triton", "auto"])
    with pytest.warns(UserWarning, match="kernels=triton is left out: UserError: .* needs a CUDA device"):
        results = benchmark_attention(7, batch_size=1, device=CPU, dtype=torch.float32, repeats=1, warmup=1)
    assert [result.name for result in results] == ["plain 7x7", "auto 7x7"] * 2


def test_models_and_sizes_that_cannot_be_measured_are_named():
    with pytest.raises(UserError, match="dat_huge is not a model"):
        Candidate("dat_huge", size=224, batch_size=1, device=CPU, weights=torch.float32, autocast=None, compiled=False)
    with pytest.raises(UserError, match="does not take images of 225 x 225 pixels"):
        Candidate(
            "swin_tiny_patch4_window7_224",
            size=225, batch_size=1, device=CPU, weights=torch.float32, autocast=None, compiled=False,
        )  # fmt: skip
    with pytest.raises(UserError, match="maps of 9 is not measured; sizes are 7, 14, 28, 56"):
        benchmark_attention(9, batch_size=1, device=CPU, dtype=torch.float32, repeats=1, warmup=1)
