"""TensorBoard, W&B and MLflow with their own readers and clients; their failures do not end a run."""

import json
import time
from pathlib import Path

import pytest
from PIL import Image
from training.small_run import ALONE

from dat_train.commands.build_training import build_loggers
from dat_train.runtime.stop_request import StopRequest
from dat_train.runtime.terminal import Terminal
from dat_train.settings import Settings
from dat_train.training.loggers.logger import About, FailSafeLogger
from dat_train.training.loggers.mlflow import MlflowLogger
from dat_train.training.loggers.tensorboard import TensorBoardLogger
from dat_train.training.loggers.wandb import WandbLogger
from dat_train.training.run_context import RunContext
from dat_train.training.run_folder import RunFolder


def row(step: int, loss: float | None = 1.0) -> dict:
    return {"step": step, "epoch": step / 10, "loss": loss, "lr": 1e-3, "skipped": 0}


def built(folder: Path, lines: list[str], **settings) -> list[FailSafeLogger]:
    """The loggers of a run with the settings `log`; its terminal collects lines."""
    terminal = Terminal(screen=False)
    terminal.say = terminal.warn = lines.append
    config = Settings({"name": "a", "log": OFF | settings})
    return build_loggers(config, RunContext(RunFolder(folder), ALONE, terminal, StopRequest()), step=0)


BLOCK = 32768
ABOUT = About("a", {"seed": 0, "optim": {"lr": 0.5}}, {"torch": "2", "git_commit": "abc"})
OFF = {
    "tensorboard": False,
    "wandb": False,
    "wandb_project": "p",
    "wandb_mode": None,
    "mlflow": False,
    "mlflow_uri": None,
    "mlflow_experiment": "e",
}
VALIDATION = {"val_loss": 0.5, "val_top1": 70.0, "ema_val_top1": 71.0}


# TensorBoard


def events(folder) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    reader = EventAccumulator(str(folder)).Reload()
    return {tag: [(e.step, e.value) for e in reader.Scalars(tag)] for tag in reader.Tags()["scalars"]}


def test_tensorboard_shows_the_rows(tmp_path):
    logger = TensorBoardLogger(tmp_path, 0, ABOUT)
    logger.log("train", row(1))
    logger.log("train", row(2, loss=None))  # skipped
    logger.log("train", row(3, loss=0.5))
    logger.log("validation", {"step": 3, "epoch": 0.3} | VALIDATION)
    logger.close()
    found = events(tmp_path)
    assert set(found) == {f"train/{name}" for name in ("loss", "lr", "skipped")} | {
        f"validation/{name}" for name in ("loss", "top1", "ema_top1")
    }
    assert found["train/loss"] == [(1, 1.0), (3, 0.5)]
    assert found["validation/ema_top1"] == [(3, 71.0)]


def test_tensorboard_has_every_step_once_after_a_kill_and_after_going_back(tmp_path):
    killed = TensorBoardLogger(tmp_path, 0, ABOUT)
    for step in range(1, 6):
        killed.log("train", row(step, loss=step))
    killed.sync()  # a checkpoint; then nothing is closed
    resumed = TensorBoardLogger(tmp_path, 3, ABOUT)
    for step in (4, 5, 6, 4, 5, 6, 7):  # it went back once
        resumed.log("train", row(step, loss=step))
    resumed.close()
    assert events(tmp_path)["train/loss"] == [(step, float(step)) for step in range(1, 8)]


def test_tensorboard_has_pictures_configuration_and_environment(tmp_path, picture):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logger = TensorBoardLogger(tmp_path, 0, ABOUT)
    logger.log_picture("batch", picture, 0)
    logger.close()
    reader = EventAccumulator(str(tmp_path)).Reload()
    (image,) = reader.Images("batch")
    assert (image.step, image.width, image.height) == (0, 30, 20)
    texts = {tag: reader.Tensors(tag)[0].tensor_proto.string_val[0].decode() for tag in reader.Tags()["tensors"]}
    assert "lr: 0.5" in texts["configuration/text_summary"] and "git_commit: abc" in texts["environment/text_summary"]


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "picture.png"
    Image.new("RGB", (30, 20), "red").save(path)
    return path


# W&B


@pytest.fixture
def offline(tmp_path, monkeypatch):
    """W&B without stored credentials."""
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HOME", "WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "NETRC"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    return tmp_path / "run"


def opened(folder, lines, mode=None) -> WandbLogger:
    return WandbLogger(folder, ABOUT, project="p", mode=mode, say=lines.append)


def records(data: bytes):
    """The records of a .wandb file: LevelDB's log format after a header of 7 bytes."""
    place, record = 7, b""
    while place + 7 <= len(data):
        if (left := BLOCK - place % BLOCK) < 7:  # too short for a head: padding
            place += left
            continue
        length, kind = int.from_bytes(data[place + 4 : place + 6], "little"), data[place + 6]
        record += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # a whole one, or the last part
            yield record
            record = b""


def written(folder) -> list:
    """The .wandb files of a run by time, complete: W&B's process still writes after the end of the run."""
    import wandb

    wandb.teardown()
    return sorted((folder / "wandb").glob("offline-run-*/*.wandb"))


def history(file) -> list[dict]:
    """The rows in a .wandb file."""
    from wandb.proto import wandb_internal_pb2

    rows = []
    for data in records(file.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        if record.WhichOneof("record_type") == "history":
            items = record.history.item
            rows.append({item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items})
    return rows


def test_wandb_writes_offline_without_a_login_and_continues_under_the_same_id(offline):
    lines = []
    first = opened(offline, lines)
    first.log("train", row(1, loss=2.0))
    first.log("train", row(2, loss=None))
    first.log("validation", {"step": 2, "epoch": 0.2} | VALIDATION)
    first.sync()
    first.close()
    assert lines[0] == "W&B: no login is known; logging offline"
    assert lines[1].startswith("W&B: offline; to upload: wandb sync ")
    identity = (offline / "wandb_id").read_text().strip()

    time.sleep(1)  # W&B names folders by the second
    second = opened(offline, lines, mode="offline")
    assert second._run.id == identity
    second.log("train", row(3, loss=1.0))
    second.close()

    files = written(offline)
    assert [file.name for file in files] == [f"run-{identity}.wandb"] * 2
    rows = [line for file in files for line in history(file)]
    assert [line["_step"] for line in rows] == [1, 2, 3]
    assert rows[0]["train/loss"] == 2.0 and "train/loss" not in rows[1] and rows[2]["train/loss"] == 1.0
    assert (rows[1]["validation/loss"], rows[1]["validation/ema_top1"], rows[1]["epoch"]) == (0.5, 71.0, 0.2)


def test_wandb_has_pictures_configuration_and_environment(offline, picture):
    from wandb.proto import wandb_internal_pb2

    logger = opened(offline, [])
    logger.log_picture("batch", picture, 0)
    logger.close()
    (file,) = written(offline)
    config = {}
    for data in records(file.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        for updates in (record.run.config.update, record.config.update):
            config |= {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in updates}
    assert config["optim"] == {"lr": 0.5} and config["environment"]["git_commit"] == "abc"
    (image,) = file.parent.glob("files/media/images/batch_0_*.png")
    assert image.read_bytes() == picture.read_bytes()
    assert "batch" in history(file)[0] or any(key.startswith("batch") for key in history(file)[0])


# MLflow


def test_mlflow_continues_the_same_run_and_has_every_step_once(tmp_path, picture, monkeypatch):
    from mlflow import MlflowClient

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)

    def logger():
        return MlflowLogger(tmp_path / "run", ABOUT, experiment="e", uri=None)

    killed = logger()
    killed.log("train", row(1, loss=2.0))
    killed.log("train", row(2, loss=None))
    killed.log("validation", {"step": 2, "epoch": 0.2} | VALIDATION)
    killed.log("train", row(3, loss=3.0))
    killed.sync()  # a checkpoint; step 4 is not sent any more
    killed.log("train", row(4, loss=4.0))
    resumed = logger()  # from a checkpoint of step 2
    for step in (3, 4, 5):
        resumed.log("train", row(step, loss=float(step)))
    resumed.log_picture("confusion", picture, 5)
    resumed.close()

    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    (run,) = client.search_runs([client.get_experiment_by_name("e").experiment_id])
    assert run.info.run_id == (tmp_path / "run/mlflow_id").read_text().strip()
    assert (run.info.status, run.info.run_name) == ("FINISHED", "a")
    losses = [(metric.step, metric.value) for metric in client.get_metric_history(run.info.run_id, "train/loss")]
    assert losses == [(1, 2.0), (3, 3.0), (4, 4.0), (5, 5.0)]
    assert run.data.metrics["validation/ema_top1"] == 71.0
    assert run.data.params == {"seed": "0", "optim.lr": "0.5"}
    assert run.data.tags["mlflow.source.git.commit"] == "abc" and run.data.tags["environment.torch"] == "2"
    assert [item.path for item in client.list_artifacts(run.info.run_id)] == ["picture.png"]


def test_an_unreachable_mlflow_server_gives_one_warning(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    lines = []
    (logger,) = built(tmp_path, lines, mlflow=True, mlflow_uri="http://127.0.0.1:9")
    logger.log("train", row(1))
    logger.close()
    assert len(lines) == 1 and lines[0].startswith("MLflow failed (MlflowException: ")


# None of them can end a run


class Broken:
    def log(self, group, row):
        raise ValueError("the server refused\nand more")

    def sync(self):
        raise OSError(28, "No space left on device")

    close = sync


@pytest.mark.parametrize("group", ["train", "validation"])
def test_a_failing_logger_is_reported_once_and_not_used_again(group):
    warnings = []
    logger = FailSafeLogger("W&B", Broken, warnings.append)
    for _ in range(2):
        logger.log(group, {})
    logger.log_picture("curves", None, 1)
    logger.sync()
    logger.close()
    assert warnings == ["W&B failed (ValueError: the server refused); the run continues without it"]


def test_a_logger_that_cannot_be_opened_is_left_out(tmp_path):
    (tmp_path / "tensorboard").write_text("a file")
    warnings = []
    (logger,) = built(tmp_path, warnings, tensorboard=True)
    logger.log("train", row(1))
    logger.close()
    assert len(warnings) == 1 and warnings[0].startswith("TensorBoard failed (FileExistsError")


def test_a_server_that_cannot_be_used_leaves_the_run_offline(offline, monkeypatch):
    import wandb

    started = []

    def init(**settings):
        started.append(settings)
        if settings["mode"] == "online":
            raise wandb.errors.CommError("no answer\nafter 30 s")
        return type("Run", (), {"dir": "x/files", "step": 0, "finish": lambda run: None})()

    monkeypatch.setattr(wandb, "login", lambda **_: True)
    monkeypatch.setattr(wandb, "init", init)
    lines = []
    opened(offline, lines).close()
    assert [settings["mode"] for settings in started] == ["online", "offline"]
    assert started[0]["id"] == started[1]["id"] and started[0]["resume"] == "allow" and started[1]["resume"] is None
    assert lines[0] == "W&B: the server cannot be used (no answer); logging offline"


def test_only_requested_loggers_are_opened(tmp_path):
    assert not built(tmp_path, [])
    assert not list(tmp_path.iterdir())
