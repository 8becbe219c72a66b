"""dat-train from the command line to the run's folder. Most tests share one training run."""

import json
import os
import pty
import re
import shutil
import subprocess
import sys

import pytest
import yaml
from commands.running import MODULES, run_here, torchrun
from commands.small_checkpoint import TINY
from PIL import Image
from troubleshooting import entry

from dat_train.models import Checkpoint
from dat_train.training.run_folder import read_rows

# ten steps on real digits; two on made-up images
DIGITS = ["experiment=digits", TINY, "batch_size=240", "micro_batch_size=120", "data.workers=0", "device=cpu"]
DIGITS += ["epochs=2", "ema.decay=0.5", "log.tensorboard=true", "checkpoint.keep=2"]
FAKE = ["model=dat_nano", TINY, "data=fake", "data.fake_images=32", "data.fake_classes=4", "data.val_fraction=0.3"]
FAKE += ["batch_size=16", "micro_batch_size=8", "data.workers=0", "max_steps=2", "epochs=1", "device=cpu"]
FAKE += ["schedule.warmup_epochs=0", "augment=light", "name=fake"]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Folder with a finished run, runs/digits, and the output of the command."""
    folder = tmp_path_factory.mktemp("home")
    result = run_here("dat-train", *DIGITS, cwd=folder)
    assert result.returncode == 0, result.stderr
    (folder / "output.txt").write_text(result.stdout)
    return folder


@pytest.fixture
def copy(home, tmp_path):
    """Copy of that folder, in which the run can be continued."""
    shutil.copytree(home, tmp_path / "home")
    return tmp_path / "home"


def test_the_run_is_a_folder_with_everything_in_it(home):
    files = {str(path.relative_to(home / "runs" / "digits")) for path in (home / "runs" / "digits").rglob("*")}
    events = {name for name in files if name.startswith("tensorboard")}
    kept = {name for name in files if name.startswith("checkpoints/last-")}
    assert len(events) == 2 and len(kept) <= 2
    assert files - events - kept == {
        ".lock",
        "batch.png",
        "checkpoints",
        "checkpoints/best.pt",
        "checkpoints/last.pt",
        "config.yaml",
        "confusion.png",
        "curves.png",
        "log.txt",
        "metrics.jsonl",
        "summary.json",
        "timing.jsonl",
    }
    assert sorted(path.name for path in home.iterdir()) == ["data", "output.txt", "runs"]  # nothing of Hydra's


def test_metrics_have_one_row_for_each_step_and_each_validation(home):
    rows = read_rows(home / "runs" / "digits" / "metrics.jsonl")
    steps = [row for row in rows if "val_loss" not in row]
    assert [row["step"] for row in steps] == list(range(1, len(steps) + 1))
    assert {"step", "epoch", "loss", "lr", "grad_norm", "skipped", "unreadable"} == set(steps[0])
    validations = [row for row in rows if "val_loss" in row]
    assert [row["epoch"] for row in validations] == [1, 2]
    kinds = {f"{kind}_{name}" for kind in ("val", "ema_val") for name in ("loss", "top1", "top5")}
    assert set(validations[0]) == {"step", "epoch"} | kinds


def test_the_summary_has_the_names_scripts_rely_on(home):
    summary = json.loads((home / "runs" / "digits" / "summary.json").read_text())
    names = {"best_top1", "final_top1", "final_top5", "steps", "images_per_second", "seconds"}
    assert names <= set(summary) and summary["images_per_second"] > 0 and summary["steps"] == 10
    saved = Checkpoint.open(home / "runs" / "digits" / "checkpoints" / "last.pt").content
    assert {"model", "ema", "optimizer", "step", "epoch", "config", "best"} <= set(saved) and saved["step"] == 10


def test_the_output_starts_with_the_plan_and_ends_with_the_result(home):
    lines = (home / "output.txt").read_text().splitlines()
    topics = [line.split()[0] for line in lines[:13]]
    recipe = ["optimizer", "loss", "augment", "average"]
    assert topics == ["run", "model", "data", "classes", "length", "batch", "lr", *recipe, "device", "memory"]
    assert not any("\x1b" in line or line != line.rstrip() for line in lines)  # no terminal: plain lines
    assert any(re.match(r"step 10/10   epoch 2.00   loss \d", line) for line in lines)
    assert lines[-1] == "  dat-eval ckpt=runs/digits/checkpoints/best.pt"


def test_the_printed_evaluation_command_gives_exactly_the_reported_accuracy(home):
    command = (home / "output.txt").read_text().splitlines()[-1].split()
    result = run_here(*command, cwd=home)
    assert result.returncode == 0, result.stderr
    found = json.loads((home / "runs" / "digits" / "eval" / "result.json").read_text())
    summary = json.loads((home / "runs" / "digits" / "summary.json").read_text())
    assert found["top1"] == summary["best_top1"]
    row = [row for row in read_rows(home / "runs" / "digits" / "metrics.jsonl") if "val_loss" in row]
    assert found["loss"] in [row["ema_val_loss"] for row in row]


def test_tensorboard_reads_the_curves(home):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(home / "runs" / "digits" / "tensorboard")).Reload()
    rows = [row for row in read_rows(home / "runs" / "digits" / "metrics.jsonl") if "val_loss" not in row]
    assert [event.step for event in events.Scalars("train/loss")] == [row["step"] for row in rows]
    assert [event.value for event in events.Scalars("train/loss")] == pytest.approx([row["loss"] for row in rows])
    assert [event.step for event in events.Scalars("validation/top1")] == [5, 10]


def test_a_finished_run_is_reported_and_a_longer_schedule_continues_it(copy):
    before = (copy / "runs" / "digits" / "checkpoints" / "last.pt").read_bytes()
    again = run_here("dat-train", *DIGITS, cwd=copy)
    assert again.returncode == 0 and "is finished; a larger epochs=... would continue it" in again.stdout
    assert (copy / "runs" / "digits" / "checkpoints" / "last.pt").read_bytes() == before
    longer = run_here("dat-train", *DIGITS, "epochs=3", cwd=copy)
    assert longer.returncode == 0 and "continuing after step 10 of 15" in longer.stdout
    assert json.loads((copy / "runs" / "digits" / "summary.json").read_text())["steps"] == 15
    config = yaml.safe_load((copy / "runs" / "digits" / "config.yaml").read_text())
    assert config["schedule"]["warmup_epochs"] == 0.33  # that of two epochs
    shorter = run_here("dat-train", *DIGITS, "epochs=3", "max_steps=3", cwd=copy)
    assert shorter.returncode == 0 and "already at step 15; 3 were requested" in shorter.stdout


def test_other_settings_are_refused_with_the_difference(home):
    result = run_here("dat-train", *DIGITS, "seed=7", "optim.weight_decay=0.3", cwd=home)
    assert result.returncode == 2 and result.stderr.count("\n") == 1
    for part in ("optim.weight_decay=0.05 is 0.3 now", "seed=0 is 7 now", "name=...", "resume=never"):
        assert part in result.stderr
    assert entry("changed-settings").fullmatch(result.stderr.strip())


def test_resume_never_starts_a_new_run_and_a_path_starts_from_it(copy):
    afresh = run_here("dat-train", *DIGITS, "resume=never", "max_steps=1", cwd=copy)
    assert afresh.returncode == 0 and "the earlier run was moved to runs/digits.old-1" in afresh.stdout
    assert Checkpoint.open(copy / "runs" / "digits" / "checkpoints" / "last.pt").content["step"] == 1
    from_path = "resume=runs/digits.old-1/checkpoints/last.pt"
    result = run_here("dat-train", *DIGITS, from_path, "name=other", "epochs=3", "max_steps=11", cwd=copy)
    assert result.returncode == 0, result.stderr
    assert "continuing after step 10 of 11" in result.stdout
    missing = run_here("dat-train", *DIGITS, "resume=nothing.pt", "name=third", cwd=copy)
    assert missing.returncode == 2 and "resume=nothing.pt is not a file" in missing.stderr


def test_weights_of_another_number_of_classes_start_a_run(home, tmp_path):
    init = f"init={home}/runs/digits/checkpoints/best.pt"
    result = run_here("dat-train", *FAKE, init, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "10 classes, the model" in result.stdout


def test_a_batch_is_drawn_and_nothing_trained(tmp_path):
    result = run_here("dat-train", *FAKE, "show_batch=true", cwd=tmp_path)
    assert result.returncode == 0 and result.stdout.endswith("runs/fake/batch.png\n")
    with Image.open(tmp_path / "runs" / "fake" / "batch.png") as picture:
        assert picture.width > 1000
    assert not (tmp_path / "runs" / "fake" / "metrics.jsonl").exists()


def test_an_impossible_batch_names_the_nearest_possible(tmp_path):
    result = run_here("dat-train", *FAKE, "batch_size=20", cwd=tmp_path)
    assert result.returncode == 2 and result.stderr.count("\n") == 1
    assert "batch_size=20" in result.stderr and "nearest: 16, 24" in result.stderr
    assert entry("batch-size").search(result.stderr)


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_half_precision_trains_on_the_cpu_too(dtype, tmp_path):
    result = run_here("dat-train", *FAKE, f"dtype={dtype}", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert f"cpu, {dtype}" in result.stdout
    rows = read_rows(tmp_path / "runs" / "fake" / "metrics.jsonl")
    assert [row["step"] for row in rows if "val_loss" not in row] == [1, 2] and rows[-1]["val_loss"] is not None


def test_a_sweep_trains_every_run_in_a_folder_of_its_own(tmp_path):
    result = run_here("dat-train", "--multirun", *FAKE, "seed=0,1", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    weights = [
        Checkpoint.open(tmp_path / "runs" / f"fake-seed_{seed}" / "checkpoints" / "last.pt").content for seed in (0, 1)
    ]
    assert [saved["step"] for saved in weights] == [2, 2] and weights[0]["config"]["seed"] == 0
    assert not weights[0]["model"]["head.fc.weight"].equal(weights[1]["model"]["head.fc.weight"])


@pytest.mark.long
def test_two_processes_train_and_one_prints(tmp_path):
    result = torchrun("dat-train", *FAKE, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("best top-1") == 1 and result.stdout.count("  model ") == 1
    assert json.loads((tmp_path / "runs" / "fake" / "summary.json").read_text())["steps"] == 2
    alone = run_here("dat-train", *FAKE, "name=alone", cwd=tmp_path)
    assert alone.returncode == 0
    losses = [
        [row["loss"] for row in read_rows(tmp_path / "runs" / name / "metrics.jsonl") if "val_loss" not in row]
        for name in ("fake", "alone")
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)  # but for the order of sums


@pytest.mark.long
def test_a_terminal_gets_a_live_bar_and_its_cursor_back(tmp_path):
    main, end = pty.openpty()
    command = [sys.executable, "-m", MODULES["dat-train"], *FAKE]
    environment = os.environ | {"TERM": "xterm-256color", "COLUMNS": "100", "LINES": "30"}
    with subprocess.Popen(command, cwd=tmp_path, stdout=end, stderr=end, env=environment) as process:
        os.close(end)
        output = b""
        while piece := _read(main):
            output += piece
    os.close(main)
    text = output.decode()
    assert process.returncode == 0, text
    assert "step 2/2" in text and "100 %" in text and "━" in text
    assert text.rfind("\x1b[?25h") > text.rfind("\x1b[?25l") >= 0
    assert "dat-eval ckpt=runs/fake/checkpoints/best.pt" in text


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 4096)
    except OSError:  # Linux: the other end was closed
        return b""


@pytest.mark.slow
def test_a_compiled_model_trains_to_the_same_losses(tmp_path):
    for name, compiled in (("plain", "false"), ("compiled", "true")):
        settings = (f"name={name}", f"compile={compiled}", "kernels=plain")  # compile=true alone runs the CPU's kernels
        result = run_here("dat-train", *FAKE, *settings, cwd=tmp_path)
        assert result.returncode == 0, result.stderr
    losses = [
        [row["loss"] for row in read_rows(tmp_path / "runs" / name / "metrics.jsonl") if "val_loss" not in row]
        for name in ("plain", "compiled")
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)  # a compiled kernel sums in another order


def test_validations_inside_of_an_epoch_are_saved_and_in_order_whenever_checkpoints_are_written(tmp_path):
    inside = ["data.fake_images=96", "epochs=2", "max_steps=8", "eval.every_steps=3"]
    for name, minutes in (("rare", 60), ("often", 0)):
        checkpoints = f"checkpoint.every_minutes={minutes}"
        result = run_here("dat-train", *FAKE, *inside, f"name={name}", checkpoints, cwd=tmp_path)
        assert result.returncode == 0, result.stderr
    rare, often = (tmp_path / "runs" / name for name in ("rare", "often"))
    assert (rare / "metrics.jsonl").read_bytes() == (often / "metrics.jsonl").read_bytes()
    steps = [json.loads(line)["step"] for line in (rare / "metrics.jsonl").read_text().splitlines()]
    assert steps == sorted(steps)
    best = json.loads((rare / "summary.json").read_text())["best_epoch"]
    assert Checkpoint.open(rare / "checkpoints/best.pt").content["epoch"] == best


def test_the_split_to_evaluate_is_refused_in_training(tmp_path):
    result = run_here("dat-train", *FAKE, "data.split=test", cwd=tmp_path)
    assert result.returncode == 2 and "data.split=test is a setting of dat-eval" in result.stderr
