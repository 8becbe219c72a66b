"""Errors on the command line are one line without a traceback; valid settings work as in Hydra."""

import sys
from typing import NamedTuple

import pytest
from commands.running import run, run_task
from troubleshooting import entry

from dat_train.cli.command_table import TRAIN
from dat_train.cli.main import run_command
from dat_train.cli.settings.train import MAY_CHANGE
from dat_train.training.resume import differences

OK = ("model=dat_nano", "data=digits")
WRONG = {
    # not a setting
    ("optim.lrr=1", *OK): "optim.lrr is not a setting; did you mean optim.lr?",
    ("+optim.lrr=1", *OK): "optim.lrr is not a setting; did you mean optim.lr?",
    ("lr=1", *OK): "lr is not a setting; did you mean optim.lr?",
    ("warmup_epoch=3", *OK): "did you mean schedule.warmup_epochs?",
    ("batchsize=3", *OK): "did you mean batch_size?",
    ("augment.hflipp=0", *OK): "did you mean augment.hflip?",
    ("augment.mixup=0", *OK): "augment.mixup is now called mixing.mixup",
    ("falling.kind=poly", *OK): "falling.kind is now called schedule.name",
    ("experiment=dat_t",): "experiment=dat_t is now model=dat_t data=imagenet, with the same recipe",
    ("optim.lr.x=3", *OK): "did you mean optim.lr?",
    ("modle=dat_t", *OK): "did you mean model?",
    ("epochs", *OK): "'epochs' is not a setting: write NAME=VALUE; did you mean epochs?",
    ("=3", *OK): "write NAME=VALUE",
    ("--epochs=3", *OK): "settings are written without dashes; did you mean epochs?",
    ("~optim", *OK): "a setting cannot be deleted",
    ("hydra.foo=1", *OK): "hydra.foo is not a setting",
    # wrong type
    ("optim.lr=fast", *OK): "optim.lr=fast: expected a number",
    ("epochs=many", *OK): "epochs=many: expected a whole number",
    ("epochs=1.5", *OK): "epochs=1.5: expected a whole number",
    ("epochs=null", *OK): "epochs: expected a whole number",
    ("max_steps=x", *OK): "max_steps=x: expected a whole number or null",
    ("compile=maybe", *OK): "compile=maybe: expected true or false",
    ("augment.scale=3", *OK): "augment.scale: expected a list of numbers or null",
    ("optim.betas=[a,b]", *OK): "optim.betas=a: expected a list of numbers",
    ("optim=3", *OK): "optim is a group of settings: set one of them, as in optim.name=...",
    ("model.args=3", *OK): "model.args: expected settings in braces",
    # malformed
    ("freeze=[1", *OK): "'freeze=[1' cannot be read; quote a value with special characters",
    ("epochs=1,2", *OK): "epochs=1,2: several values are a sweep; add --multirun",
    ("--cfg", "jobs", *OK): "invalid choice: 'jobs'",
    ("--config-dir", "nowhere", *OK): "nowhere' not found",
    # impossible value
    ("batch_size=-8", *OK): "batch_size=-8 must be greater than 0",
    ("augment.hflip=2", *OK): "augment.hflip=2.0 must be between 0 and 1",
    ("ema.decay=1", *OK): "ema.decay=1.0 must be at least 0 and less than 1",
    ("optim.lr=nan", *OK): "optim.lr=nan must be finite",
    ("augment.ratio=[2,1]", *OK): "augment.ratio=[2.0, 1.0] must be two numbers",
    ("data.mean=[1,2]", *OK): "must be three numbers",
    ("schedule.name=plateau", *OK): "must be one of cosine, linear, poly, step, multistep, constant",
    ("loss.name=mse", *OK): "loss.name=mse must be one of cross_entropy, bce",
    ("eval.resize=crop", *OK): "eval.resize=crop must be one of short_side, squash",
    ("dtype=float", *OK): "dtype=float must be one of auto, bf16, fp16, fp32, fp64",
    ("device=gpu", *OK): "device=gpu must be auto, cpu, cuda, cuda:N or mps",
    ("name=../elsewhere", *OK): "must be a folder's name",
    # choices
    ("model=dat_q", "data=digits"): "model=dat_q does not exist; model is one of dat_t, dat_s, dat_b",
    ("model=null", "data=digits"): "model=None does not exist; model is one of ",
    ("model=[dat_t,dat_s]", "data=digits"): "does not exist; model is one of dat_",
    ("model=dat_t,dat_q", "data=digits", "--multirun"): "model=dat_q does not exist",
    ("model=dat_nano", "data=digit"): "data=digit does not exist; data is one of digits,",
    ("augment=strong", *OK): "augment is one of",
    ("experiment=digts",): "experiment=digts does not exist; experiment is one of digits",
    ("data=digits",): "model is not set: model=NAME with one of convnext_t, dat_b, dat_b_384, dat_nano",
    ("model=dat_nano",): "data is not set: data=NAME with one of ade20k, boxes, coco, csv, digit_scenes, digits, fake",
    ("model=dat_nano", "data=imagenet"): "data.root is not set: data=imagenet needs data.root=PATH",
    ("model=dat_b_384", "data=digits"): "init is not set: init=PATH",
}


class Result(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def train(monkeypatch, capsys, tmp_path):
    """dat-train in this process, which is quicker: called with the command line and the function to run."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")  # it sets this; taken back after the test

    def train(*arguments, task=lambda config, command_line: print(config.name)):
        monkeypatch.setattr(sys, "argv", ["dat-train", *arguments])
        with pytest.raises(SystemExit) as stop:
            run_command(TRAIN, task)
        return Result(stop.value.code, *capsys.readouterr())

    return train


@pytest.mark.parametrize("arguments", WRONG, ids=" ".join)
def test_errors_are_named_in_one_line(arguments, train):
    code, out, err = train(*arguments)
    assert err.startswith("error: ") and err.count("\n") == 1, err
    assert WRONG[arguments] in err
    assert (code, out) == (2, "")


def test_frequent_errors_are_on_the_page_of_troubleshooting(train):
    assert entry("unknown-setting").fullmatch(train("lr=1", *OK).err.strip())
    assert entry("unknown-choice").search(train("model=dat_q", "data=digits").err)
    assert entry("sweep").fullmatch(train("epochs=1,2", *OK).err.strip())
    assert entry("data-root").fullmatch(train("model=dat_nano", "data=imagenet").err.strip())
    assert entry("not-a-setting").search(train("data.root=/my", "photos", *OK).err)
    assert entry("quoting").search(train("freeze=[1", *OK).err)
    assert entry("run-name").fullmatch(train("name=../elsewhere", *OK).err.strip())
    assert entry("init").fullmatch(train("model=dat_b_384", "data=digits").err.strip())


def test_commands_in_separate_processes_give_the_same_errors(tmp_path):
    result = run("dat-train", "optim.lrr=1", *OK, cwd=tmp_path)
    assert (result.returncode, result.stdout) == (2, "") and "did you mean optim.lr?" in result.stderr
    result = run("dat-eval", "batch_sizes=8", cwd=tmp_path)
    assert (result.returncode, result.stdout) == (2, "") and "did you mean batch_size?" in result.stderr
    result = run("dat-eval", "batch_size=8", cwd=tmp_path)
    assert result.returncode == 2 and "ckpt is not set: ckpt=PATH" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_only_one_process_of_torchrun_prints_the_error(tmp_path):
    torchrun = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}
    result = run("dat-train", "lr=1", *OK, cwd=tmp_path, **torchrun)
    assert result.returncode == 2 and result.stderr == ""


@pytest.mark.parametrize(
    ("task", "code", "last_line"),
    [
        ("pass", 0, ""),
        ("raise SystemExit(75)", 75, ""),
        ("raise KeyboardInterrupt", 130, "interrupted"),
        ("from dat_train.errors import UserError; raise UserError('a=1\\n   is bad')", 2, "error: a=1 is bad"),
        ("1 / 0", 1, "ZeroDivisionError: division by zero"),
        ("raise OSError(28, 'No space left on device')", 1, "OSError: [Errno 28] No space left on device"),
    ],
)
@pytest.mark.parametrize("sweep", [(), ("seed=1,2", "--multirun")], ids=["run", "sweep"])
def test_exit_codes(task, code, last_line, sweep, tmp_path):
    result = run_task(task.replace("\n", "\\n"), *OK, *sweep, cwd=tmp_path)
    assert result.returncode == code
    lines = result.stderr.splitlines() or [""]
    assert lines[-1] == last_line
    assert (len(lines) > 1) == (code == 1), "a traceback where something unexpected happened, and only there"
    assert ("Traceback" in result.stderr) == (code == 1)


def test_every_run_of_a_sweep_has_a_folder_of_its_own(train, tmp_path):
    result = train(*OK, "optim.lr=1e-3,0.5", "+model.args.depths=[1,1],[2,2]", "seed=3", "--multirun")
    expected = (f"depths_{depths}-optim.lr_{lr}" for lr in ("0.001", "0.5") for depths in ("1_1", "2_2"))
    assert result.out.split() == [f"dat_nano-digits-model.args.{name}" for name in expected], result.err
    assert train("model=dat_t,dat_s", "data=digits", "-m").out.split() == ["dat_t-digits", "dat_s-digits"]
    assert train(*OK, "name=mine", "seed=1,2", "-m").out.split() == ["mine-seed_1", "mine-seed_2"]
    assert train(*OK, "name=a,b", "-m").out.split() == ["a", "b"]
    both = ["a-seed_1", "a-seed_2", "b-seed_1", "b-seed_2"]
    assert train(*OK, "name=a,b", "seed=1,2", "-m").out.split() == both
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]  # Hydra's record of the sweep is in there


def test_a_sweep_over_models_takes_the_recipe_of_each(train):
    result = train("model=dat_t,dat_b", "data=digits", "-m", task=lambda config, command_line: print(config.clip_grad))
    assert result.out.split() == ["5.0", "1.0"], result.err


def test_the_default_name_of_a_run_is_model_and_data(train, tmp_path):
    assert train(*OK).out == "dat_nano-digits\n"
    assert train(*OK, "name=mine").out == "mine\n"
    assert list(tmp_path.iterdir()) == []  # Hydra leaves no folders of its own


def test_cfg_job_shows_the_settings_and_runs_nothing(tmp_path):
    result = run("dat-train", "--cfg", "job", *OK, "optim.lr=0.5", cwd=tmp_path)
    assert result.returncode == 0 and "lr: 0.5" in result.stdout and "timm_name: dat_nano" in result.stdout
    assert list(tmp_path.iterdir()) == []


def test_info_shows_the_source_of_settings(tmp_path):
    result = run("dat-train", "experiment=digits", "--info", "defaults", cwd=tmp_path)
    assert result.returncode == 0 and "experiment/digits" in result.stdout


def test_options_may_stand_anywhere(train):
    result = train(OK[0], "--cfg", "job", OK[1], "seed=5")
    assert result.code == 0 and "seed: 5" in result.out


def test_the_command_line_overrides_an_experiment(train):
    shown = train("experiment=digits", "model=dat_b", "epochs=3", "--cfg", "job").out
    assert "timm_name: dat_base" in shown and "epochs: 3" in shown
    assert "kind: digits" in shown and "clip_grad: 1.0" in shown  # the model's own recipe with it


def test_any_argument_of_the_model_can_be_given(train):
    result = train(*OK, "model.args.depths=[1,1,1,1]", task=lambda config, command_line: print(config.model.args))
    assert result.out == "{'depths': [1, 1, 1, 1]}\n", result.err


def test_a_folder_of_own_configurations_is_searched(train, tmp_path):
    experiment = "# @package _global_\ndefaults:\n  - override /model: mine\n  - override /data: digits\nepochs: 7\n"
    model = "name: mine\ntimm_name: dat_nano\nimg_size: 64\ndrop_path_rate: 0.0\nargs: {window_size: 8}\n"
    for folder, text in {"experiment": experiment, "model": model}.items():
        (tmp_path / "my" / folder).mkdir(parents=True)
        (tmp_path / "my" / folder / "mine.yaml").write_text(text)
    result = train("--config-dir", "my", "experiment=mine", "--cfg", "job")
    assert "epochs: 7" in result.out and "img_size: 64" in result.out, result.err
    assert "experiment is one of mine, " in train("--config-dir", "my", "experiment=mien").err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("optim: {lrr: 1}", "in experiment/mine.yaml: optim.lrr is not a setting; did you mean optim.lr?"),
        ("epoch: 3", "epoch is not a setting; did you mean epochs?"),
        ("optim: {lr: fast}", "optim.lr=fast: expected a number"),
        ("optim: [", "mine.yaml"),
    ],
)
def test_errors_in_own_files_are_named_too(text, message, train, tmp_path):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text(f"# @package _global_\n{text}\n")
    result = train(*OK, "--config-dir", ".", "experiment=mine")
    assert result.code == 2 and result.err.count("\n") == 1, result.err
    assert message in result.err


def test_earlier_names_of_model_arguments_are_no_differences():
    old, new = (
        {"model": {"name": "dat_t", "args": {name: [1, 2], "depths": [1, 1]}}} for name in ("heads", "num_heads")
    )
    assert differences(old, new, MAY_CHANGE) == []


def test_only_changes_that_matter_are_differences():
    old = {"epochs": 10, "seed": 0, "device": "cpu", "model": {"name": "a", "args": {}}, "log": {"every": 5}}
    assert differences(old, old, MAY_CHANGE) == []
    assert differences(old, old | {"device": "cuda", "log": {"every": 50}, "epochs": 11}, MAY_CHANGE) == []
    assert differences(old, old | {"epochs": 9, "seed": 1}, MAY_CHANGE) == [("epochs", 10, 9), ("seed", 0, 1)]
    assert differences(old, old | {"model": {"name": "a", "args": {"x": 2}}}, MAY_CHANGE) == [("model.args.x", None, 2)]


def test_settings_that_affect_the_numbers_may_not_change():
    assert {
        "device",
        "data.workers",
        "checkpoint.every_minutes",
        "log.wandb",
        "epochs",
        "micro_batch_size",
    } <= MAY_CHANGE
    for key in ("batch_size", "seed", "img_size", "dtype", "optim.lr", "mixing.mixup", "data.kind", "model.timm_name"):
        assert key not in MAY_CHANGE
