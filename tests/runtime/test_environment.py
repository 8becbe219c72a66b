"""Description of the environment of a run."""

import os
import subprocess

import pytest
import torch
import yaml

from dat_train.runtime.environment import environment, git_commit, usable_cores


def git(folder, *arguments):
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    return subprocess.check_output(["git", *identity, *arguments], cwd=folder, text=True).strip()


def test_the_commit_of_a_folder_and_whether_files_differ_from_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert git_commit() is None
    git(tmp_path, "init", "-q")
    assert git_commit() is None, "no commit yet"
    (tmp_path / "a.txt").write_text("a")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "a")
    git(tmp_path, "tag", "v1")
    commit = git(tmp_path, "rev-parse", "HEAD")
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "new.txt").touch()
    monkeypatch.chdir(tmp_path / "runs")
    assert git_commit() == commit, "files that git does not know do not matter"
    (tmp_path / "a.txt").write_text("b")
    assert git_commit() == f"{commit}+"


def test_git_is_not_required(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert git_commit() is None


def test_versions_machine_and_device(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = environment(torch.device("cpu"), 2)
    assert found["torch"] == torch.__version__ and found["device"] == "cpu" and found["processes"] == 2
    assert found["git_commit"] is None and found["host"]
    assert yaml.safe_load(yaml.safe_dump(found)) == found, "plain data"


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs affinity")
def test_cores_are_those_the_process_may_use(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {3, 5, 7})
    assert usable_cores() == 3


def test_all_cores_count_without_affinity(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    assert usable_cores() == os.cpu_count()
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert usable_cores() == 1
