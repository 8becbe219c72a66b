"""Atomic writing of checkpoint files, and detection of a changed bit."""

import os
import random
import subprocess
from collections import OrderedDict
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

from dat_train.models.weights.checkpoint import Checkpoint, CheckpointError
from dat_train.runtime import checkpoint_file
from dat_train.runtime.checkpoint_file import canonical, save_checkpoint


def a_state(size: int = 40) -> dict:
    torch.manual_seed(0)
    return {
        "model": OrderedDict(weight=torch.randn(size, 8), bias=torch.randn(8).bfloat16(), count=torch.tensor(3)),
        "optimizer": {"state": {0: {"step": torch.tensor(2.0)}}, "groups": [{"betas": (0.9, 0.999), "lr": 1e-3}]},
        "best": {},
        "step": 3,
        "config": {"name": "a", "root": None, "compile": False},
    }


def same(a, b) -> bool:
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


def test_a_saved_state_is_loaded_unchanged(tmp_path):
    save_checkpoint(a_state(), tmp_path / "a.pt")
    assert same(Checkpoint.open(tmp_path / "a.pt").content, {**a_state(), "model": dict(a_state()["model"])})
    assert [path.name for path in tmp_path.iterdir()] == ["a.pt"]


def test_torch_load_reads_the_file_without_code(tmp_path):
    save_checkpoint(a_state(), tmp_path / "a.pt")
    assert same(torch.load(tmp_path / "a.pt", weights_only=True)["model"], dict(a_state()["model"]))


def test_equal_states_give_equal_bytes(tmp_path):
    """Also if one of them shares strings or tensor memory that the other has twice, or holds views."""
    shared = a_state()
    shared["again"] = shared["best"] = {"name": shared["config"]["name"]}
    shared["view"] = shared["model"]["weight"]
    apart = a_state()
    apart["best"], apart["again"] = ({str(b"name", "ascii"): str(b"a", "ascii")} for _ in range(2))
    apart["view"] = torch.cat([apart["model"]["weight"]] * 2, 1)[:, :8]
    shared = {key: shared[key] for key in apart}
    for number, state in enumerate((shared, apart, load_saved(shared, tmp_path))):
        save_checkpoint(state, tmp_path / f"{number}.pt")
    contents = {(tmp_path / f"{number}.pt").read_bytes() for number in range(3)}
    assert len(contents) == 1


def load_saved(state, folder):
    save_checkpoint(state, folder / "first.pt")
    return Checkpoint.open(folder / "first.pt").content


def test_the_copy_does_not_change_while_training_continues():
    layer = torch.nn.Linear(2, 2)
    copy = canonical({"weight": layer.weight, "all": [layer.weight]})
    before = layer.weight.detach().clone()
    with torch.no_grad():
        layer.weight.zero_()
    assert torch.equal(copy["weight"], before) and torch.equal(copy["all"][0], before)
    assert not copy["weight"].requires_grad and type(copy["weight"]) is torch.Tensor


@pytest.mark.parametrize("value", [Path("x"), {1, 2}, np.int64(3), np.zeros(2), object, b"bytes", 1j])
def test_values_that_are_not_plain_data_are_refused(tmp_path, value):
    with pytest.raises(TypeError, match=f"a checkpoint cannot hold {type(value).__name__}"):
        save_checkpoint({"config": [value]}, tmp_path / "a.pt")
    assert not list(tmp_path.iterdir())


def test_numpy_numbers_become_plain_numbers():
    copy = canonical([np.float64(0.5), True, 7, np.str_("a")])
    assert copy == [0.5, True, 7, "a"] and [type(item) for item in copy] == [float, bool, int, str]


def test_every_changed_bit_is_noticed(tmp_path):
    path = tmp_path / "a.pt"
    save_checkpoint(a_state(), path)
    whole = path.read_bytes()
    ends = [*range(60), *range(len(whole) - 120, len(whole))]  # the first header; the last record and the checksum
    for place in [*ends, *random.Random(0).sample(range(len(whole)), 150)]:
        changed = bytearray(whole)
        changed[place] ^= 1 << place % 8
        path.write_bytes(changed)
        with pytest.raises(CheckpointError, match="altered or truncated"):
            Checkpoint.open(path)
    path.write_bytes(whole)
    assert Checkpoint.open(path).content["step"] == 3


def test_a_file_that_ends_early_or_late_is_noticed(tmp_path):
    path = tmp_path / "a.pt"
    save_checkpoint(a_state(), path)
    whole = path.read_bytes()
    for length in [0, 1, 21, 22, 100, len(whole) // 2, len(whole) - 82, len(whole) - 81, len(whole) - 1]:
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match="truncated"):
            Checkpoint.open(path)
    path.write_bytes(whole + b"\0")
    with pytest.raises(CheckpointError, match="truncated"):
        Checkpoint.open(path)


def test_a_file_of_another_program_is_not_resumed(tmp_path):
    torch.save(a_state(), tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match="not written by dat-train; use another one"):
        Checkpoint.open(tmp_path / "a.pt").training_state()


@contextmanager
def small_disk(folder: Path):
    """A file system of 256 kB; skipped where mounting is not permitted."""
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("needs the right to mount a small file system")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


def test_a_full_disk_leaves_the_old_file_whole(tmp_path):
    with small_disk(tmp_path / "disk") as disk:
        path = disk / "last.pt"
        save_checkpoint(a_state(), path)
        old = path.read_bytes()
        with pytest.raises(OSError, match="No space left on device"):
            save_checkpoint(a_state(20_000), path)
        assert path.read_bytes() == old
        assert [left.name for left in disk.iterdir()] == ["last.pt"]  # half a file would keep the disk full
        save_checkpoint(a_state(80) | {"step": 4}, path)
        assert Checkpoint.open(path).content["step"] == 4


def test_nothing_is_renamed_before_its_bytes_are_on_the_disk(tmp_path, monkeypatch):
    """After a power cut, the renamed file must not be empty."""
    done = []
    fsync, replace = os.fsync, Path.replace

    def note(number):
        done.append(str(Path(f"/proc/self/fd/{number}").readlink()))
        fsync(number)

    monkeypatch.setattr(os, "fsync", note)
    monkeypatch.setattr(Path, "replace", lambda path, target: done.append("rename") or replace(path, target))
    checkpoint_file.save_checkpoint(a_state(), tmp_path / "a.pt")
    assert done == [str(tmp_path / ".a.pt.new"), "rename", str(tmp_path)]
