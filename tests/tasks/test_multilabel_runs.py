"""Real multi-label runs: kills, world sizes, data workers, changed labels."""

import signal

import pytest
import torch
from data.colored_labels import write_colored_labels
from training.real_run import RealRun, content, ranks

pytestmark = pytest.mark.long
SETTINGS = [
    *("task=multilabel", "model=dat_nano", "data=csv", "data.workers=1", "batch_size=12", "micro_batch_size=6"),
    "model.args={dims:[8,16,16,24],depths:[1,1,2,1],num_heads:[1,2,2,3],groups:[1,1,2,1],proj_drop_rate:0.1}",
    *("epochs=6", "optim.lr=2e-3", "schedule.warmup_epochs=1", "ema.decay=0.9", "loss.class_weights=balanced"),
    *("checkpoint.every_minutes=0", "log.every=1", "device=cpu", "name=run"),
]


class LabeledRun(RealRun):
    settings = SETTINGS


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return write_colored_labels(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def whole(table, tmp_path_factory):
    run = LabeledRun(tmp_path_factory.mktemp("whole"), f"data.root={table}")
    assert run.wait() == 0, run.output
    return run


def test_a_killed_run_continues_to_the_same_bytes(whole, table, tmp_path):
    killed = LabeledRun(tmp_path, f"data.root={table}")
    killed.wait_for_step(7)
    killed.send(signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    again = LabeledRun(tmp_path, f"data.root={table}")
    assert again.wait() == 0, again.output
    assert "continuing after step" in again.output
    assert content(again.run) == content(whole.run)


def test_two_processes_give_the_weights_of_one(table, tmp_path):
    settings = (f"data.root={table}", "dtype=fp64")
    one = LabeledRun(tmp_path / "one", *settings)
    two = ranks(tmp_path / "two", 2, *settings, kind=LabeledRun)
    assert [run.wait() for run in (one, *two)] == [0, 0, 0], one.output
    first, second = (torch.load(run.run / "checkpoints/last.pt") for run in (one, two[0]))
    for name, value in first["model"].items():
        assert torch.allclose(value.double(), second["model"][name].double(), rtol=0, atol=1e-9), name
    assert first["best"]["map"] == pytest.approx(second["best"]["map"], abs=1e-6)


def test_changed_labels_are_changed_data(whole, table, tmp_path):
    """One label of one image is enough, and the counts are named."""
    (tmp_path / "runs").symlink_to(whole.run.parent, target_is_directory=True)
    changed = table.with_name("changed.csv")
    changed.write_text(table.read_text().replace("001.png,red light;green,", "001.png,red light,"))
    run = LabeledRun(tmp_path, f"data.root={changed}", "epochs=7")
    assert run.wait() == 2
    assert "was started with other data: training: 36 images -> 36 (green " in run.output, run.output
