"""What was typed wrong is named in one line, without a traceback; exit code 2."""

import pytest
from commands.running import run

OK = ("model=dat_nano", "data=digits")
WRONG = {
    ("optim.lrr=1", *OK): "optim.lrr is not a setting; did you mean optim.lr?",
    ("lr=1", *OK): "did you mean optim.lr?",
    ("warmup_epoch=3", *OK): "did you mean schedule.warmup_epochs?",
    ("batchsize=3", *OK): "did you mean batch_size?",
    ("epochs", *OK): "write NAME=VALUE",
    ("optim.lr=fast", *OK): "optim.lr=fast: expected a number",
    ("epochs=many", *OK): "epochs=many: expected a whole number",
    ("compile=maybe", *OK): "compile=maybe: expected true or false",
    ("augment.scale=3", *OK): "augment.scale: expected a list or null",
    ("optim=3", *OK): "optim is a group of settings",
    ("name=[1", *OK): "cannot be read",
    ("batch_size=-8", *OK): "batch_size=-8 must be greater than 0",
    ("augment.hflip=2", *OK): "augment.hflip=2.0 must lie between 0 and 1",
    ("eval.resize=crop", *OK): "one of short_side, squash",
    ("dtype=float", *OK): "one of auto, bf16, fp16, fp32, fp64",
    ("model=dat_q", "data=digits"): "models: dat_",
    ("model=dat_nano", "data=digit"): "data: digits,",
    ("experiment=digts",): "experiments: digits",
    ("data=digits",): "model is not set: model=NAME with one of dat_b",
    ("model=dat_nano",): "data is not set: data=NAME with one of digits",
    ("model=dat_nano", "data=imagenet"): "needs data.root=FOLDER",
    ("model=dat_b_384", "data=digits"): "init is not set: init=PATH",
}


@pytest.mark.parametrize("arguments", WRONG)
def test_what_is_wrong_is_named_in_one_line(arguments, tmp_path):
    result = run("dat-train", *arguments, cwd=tmp_path)
    assert result.returncode == 2
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1, result.stderr
    assert WRONG[arguments] in result.stderr
    assert list(tmp_path.iterdir()) == []  # nothing half begun


def test_only_one_process_of_a_torchrun_speaks(tmp_path):
    result = run("dat-train", "lr=1", *OK, cwd=tmp_path, RANK="1")
    assert result.returncode == 2 and result.stderr == ""


def test_evaluation_without_a_checkpoint(tmp_path):
    result = run("dat-eval", "batch_size=8", cwd=tmp_path)
    assert result.returncode == 2 and "ckpt is not set" in result.stderr


def test_cfg_job_shows_the_settings_and_runs_nothing(tmp_path):
    result = run("dat-train", *OK, "optim.lr=0.5", "--cfg", "job", cwd=tmp_path)
    assert result.returncode == 0 and "lr: 0.5" in result.stdout and "timm_name: dat_nano" in result.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_own_configurations_is_taken(tmp_path):
    (tmp_path / "my" / "experiment").mkdir(parents=True)
    (tmp_path / "my" / "experiment" / "mine.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /model: dat_nano\n  - override /data: digits\nepochs: 7\n"
    )
    result = run("dat-train", "--config-dir", "my", "experiment=mine", "--cfg", "job", cwd=tmp_path)
    assert "epochs: 7" in result.stdout, result.stderr
