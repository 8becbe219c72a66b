"""All loggers have the same numbers, also of a run that was continued."""

import json
import sys

import pytest
from commands.running import run_here
from commands.small_checkpoint import TINY

SMALL = ["model=dat_nano", "data=fake", "data.fake_images=24", "data.fake_classes=4", "data.workers=0", "batch_size=8",
         "micro_batch_size=4", "epochs=2", "schedule.warmup_epochs=1", "name=a", TINY]  # fmt: skip
LOGGED = ["log.tensorboard=true", "log.wandb=true", "log.wandb_mode=offline", "log.mlflow=true"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a run that was stopped after four of its steps, and continued."""
    folder = tmp_path_factory.mktemp("logged")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("MLFLOW_TRACKING_URI", "WANDB_API_KEY"):
            patch.delenv(name, raising=False)
        for name in ("HOME", "WANDB_CONFIG_DIR", "WANDB_CACHE_DIR"):
            patch.setenv(name, str(folder))
        for length in (["max_steps=4"], []):
            result = run_here("dat-train", *SMALL, *LOGGED, *length, cwd=folder)
            assert result.returncode == 0, result.stderr
            assert "warning" not in result.stdout, result.stdout
            assert "failed" not in result.stderr
    return folder / "runs" / "a"


def losses(run) -> list[tuple[int, float]]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [(row["step"], pytest.approx(row["loss"])) for row in rows if "loss" in row]


def test_tensorboard_has_the_rows_pictures_configuration_and_commit(run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    reader = EventAccumulator(str(run / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in reader.Scalars("train/loss")] == losses(run)
    assert set(reader.Tags()["images"]) == {"batch", "confusion", "curves"}
    assert b"git_commit" in reader.Tensors("environment/text_summary")[0].tensor_proto.string_val[0]
    assert b"fake_classes: 4" in reader.Tensors("configuration/text_summary")[0].tensor_proto.string_val[0]


def test_wandb_has_one_run_with_pictures(run):
    identity = (run / "wandb_id").read_text().strip()
    folders = list((run / "wandb").glob("offline-run-*"))
    assert len(folders) == 2 and all(folder.name.endswith(identity) for folder in folders)
    names = {path.name.partition("_")[0] for path in run.glob("wandb/offline-run-*/files/media/images/*.png")}
    assert names == {"batch", "confusion", "curves"}


def test_mlflow_has_one_run_with_the_rows_and_pictures(run):
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{run.parent}/mlflow.db")
    (found,) = client.search_runs([client.get_experiment_by_name("dat-train").experiment_id])
    history = client.get_metric_history(found.info.run_id, "train/loss")
    assert [(metric.step, metric.value) for metric in history] == losses(run)
    assert {item.path for item in client.list_artifacts(found.info.run_id)} == {
        "batch.png",
        "confusion.png",
        "curves.png",
    }
    assert found.data.params["data.fake_classes"] == "4" and found.info.status == "FINISHED"


def test_missing_mlflow_is_named_and_the_run_continues(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "mlflow", None)
    result = run_here("dat-train", *SMALL, "log.mlflow=true", "max_steps=1", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "MLflow failed (UserError: mlflow is not installed: pip install mlflow)" in result.stdout
