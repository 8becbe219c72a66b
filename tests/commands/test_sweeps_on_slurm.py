"""Sweeps as jobs of a cluster: the launcher composes, and its runs are ordinary runs."""

import json

import pytest
import yaml
from commands.running import run
from hydra.errors import MissingConfigException

from dat_train.cli.command_table import TRAIN
from dat_train.cli.composition_errors import composition_error

TINY = [
    *(
        "model=dat_nano",
        "model.args.dims=[8,16,16,24]",
        "model.args.depths=[1,1,2,1]",
        "model.args.num_heads=[1,2,2,3]",
    ),
    *("data=fake", "data.fake_images=16", "data.fake_classes=2", "batch_size=8", "micro_batch_size=4", "epochs=1"),
    *("schedule.warmup_epochs=0", "data.workers=0", "model.args.groups=[1,1,2,1]"),
]


def test_the_launcher_for_slurm_composes_with_one_gpu_a_run(tmp_path):
    shown = run(
        "dat-train", "hydra/launcher=slurm", "hydra.launcher.partition=gpu", *TINY, "--cfg", "hydra", cwd=tmp_path
    )
    assert shown.returncode == 0, shown.stderr
    launcher = yaml.safe_load(shown.stdout)["hydra"]["launcher"]
    assert launcher["_target_"].endswith("SlurmLauncher") and launcher["partition"] == "gpu"
    assert launcher["gpus_per_node"] == launcher["tasks_per_node"] == launcher["nodes"] == 1
    assert launcher["max_num_timeout"] > 1 and list(tmp_path.iterdir()) == []


def test_a_missing_launcher_is_named_with_the_package():
    error = MissingConfigException("not found", missing_cfg_file="hydra/launcher/submitit_slurm", options=["basic"])
    assert composition_error(TRAIN, error).endswith("pip install 'dat-train[slurm]'")


@pytest.mark.slow
def test_submitit_runs_every_job_of_a_sweep_in_a_folder_of_its_own(tmp_path):
    local = ("--multirun", "hydra/launcher=submitit_local", "seed=0,1")
    done = run("dat-train", *local, *TINY, cwd=tmp_path, timeout=300)
    assert done.returncode == 0, done.stderr
    for seed in (0, 1):
        summary = json.loads((tmp_path / f"runs/dat_nano-fake-seed_{seed}/summary.json").read_text())
        assert summary["steps"] == 2
