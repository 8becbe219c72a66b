"""A real run with a full, read-only or missing disk, and with a damaged last.pt."""

import os
import re
import signal
import subprocess

import pytest
from training.real_run import RealRun, content, ended, steps_done

from dat_train.models.weights.checkpoint import Checkpoint, CheckpointError

pytestmark = pytest.mark.long

SETTINGS = ("data.workers=0", "epochs=10", "checkpoint.keep=2")  # 60 steps, a checkpoint after each


@pytest.fixture(scope="module")
def through(tmp_path_factory):
    run = RealRun(tmp_path_factory.mktemp("through"), *SETTINGS)
    assert run.wait() == 0, run.output
    return content(run.run)


@pytest.fixture
def disk(tmp_path):
    """A folder that is a separate file system of 12 MB, which can be unmounted and mounted again."""
    if os.geteuid():
        pytest.skip("needs root, to mount file systems")
    backing, disk = tmp_path / "backing", tmp_path / "disk"
    backing.mkdir()
    disk.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", backing], capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"mounting is not permitted here: {made.stderr.strip()}")
    subprocess.run(["mount", "--bind", backing, disk], check=True)
    yield disk
    while subprocess.run(["umount", "-l", disk], capture_output=True).returncode == 0:
        pass
    subprocess.run(["umount", "-l", backing], check=True)


class Full:
    reason = "No space left on device"

    def begin(self, disk) -> None:
        with (disk / "filler").open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(1 << 12))
            except OSError:
                pass

    def end(self, disk) -> None:
        (disk / "filler").unlink()


class ReadOnly:
    reason = "Read-only file system"

    def begin(self, disk) -> None:
        make_read_only(disk)

    def end(self, disk) -> None:
        make_writable(disk)


class Gone:
    reason = "No such file or directory"

    def begin(self, disk) -> None:
        subprocess.run(["umount", "-l", disk], check=True)

    def end(self, disk) -> None:
        subprocess.run(["mount", "--bind", disk.parent / "backing", disk], check=True)


def make_read_only(disk) -> None:
    """Make the file system of `disk` read-only, as after an error of the disk; open files stay open."""
    aside = disk.parent / "aside"  # in place, the run might open a file before it is read-only, which is refused then
    aside.mkdir(exist_ok=True)
    subprocess.run(["mount", "--bind", disk.parent / "backing", aside], check=True)
    subprocess.run(["mount", "-o", "remount,bind,ro", aside], check=True)
    subprocess.run(["mount", "--bind", aside, disk], check=True)
    subprocess.run(["umount", "-l", aside], check=True)


def make_writable(disk) -> None:
    subprocess.run(["umount", "-l", disk], check=True)


@pytest.mark.parametrize("fault", [Full(), ReadOnly(), Gone()], ids=lambda fault: type(fault).__name__)
def test_a_run_survives_faults_of_its_disk_and_ends_with_the_same_bytes(fault, through, disk, tmp_path):
    run = RealRun(tmp_path, *SETTINGS, f"runs_dir={disk}/runs")
    place = disk / "runs" / "run"
    with ended(run):
        run.wait_for(lambda: steps_done(place) >= 10)
        fault.begin(disk)
        run.wait_for(lambda: run.output.count("could not be written") >= 5)
        if not isinstance(fault, Gone):
            assert Checkpoint.open(place / "checkpoints/last.pt").content["step"] >= 9  # old, and whole
        fault.end(disk)
        assert run.wait() == 0, run.output
    assert fault.reason in run.output and "the previous one is intact, the run continues and tries again" in run.output
    found = content(place)
    assert found["metrics.jsonl"] == through["metrics.jsonl"]
    for name in ("last.pt", "best.pt"):  # which differ in one setting, runs_dir
        saved = Checkpoint.open(place / "checkpoints" / name).content
        del saved["config"]
        (tmp_path / name).write_bytes(through[f"checkpoints/{name}"])
        assert repr(saved) == repr({k: v for k, v in Checkpoint.open(tmp_path / name).content.items() if k != "config"})


def test_a_run_whose_last_state_cannot_be_written_ends_with_an_error(disk, tmp_path):
    run = RealRun(tmp_path, "data.workers=0", "max_steps=30", f"runs_dir={disk}/runs")
    place = disk / "runs" / "run"
    with ended(run):
        run.wait_for(lambda: steps_done(place) >= 5)
        make_read_only(disk)
        assert run.wait() == 2
        make_writable(disk)
    (line,) = [line for line in run.output.splitlines() if line.startswith("error")]
    assert "step 30 could not be written to" in line and "Read-only file system" in line
    assert 4 <= Checkpoint.open(place / "checkpoints/last.pt").content["step"] < 30


def test_a_run_folder_that_cannot_be_written_is_one_line(disk, tmp_path):
    (disk / "runs" / "run" / "checkpoints").mkdir(parents=True)
    make_read_only(disk)
    run = RealRun(tmp_path, "data.workers=0", f"runs_dir={disk}/runs")
    assert run.wait() == 2
    assert run.output.count("\n") == 1
    assert run.output.startswith(
        f"error: {disk}/runs/run/.lock: Read-only file system; free disk space or make the folder writable"
    )


@pytest.mark.parametrize("damage", ["a bit", pytest.param("the end", marks=pytest.mark.slow)])
def test_a_damaged_checkpoint_is_noticed_and_the_newest_whole_one_used(damage, through, tmp_path):
    run = RealRun(tmp_path, *SETTINGS)
    with ended(run):
        run.wait_for_step(20)
        run.send(signal.SIGKILL)
        run.wait()
    last = run.run / "checkpoints" / "last.pt"
    whole = bytearray(last.read_bytes())
    if damage == "a bit":
        whole[len(whole) // 2] ^= 1
    else:
        del whole[-100:]
    last.write_bytes(whole)
    with pytest.raises(CheckpointError):
        Checkpoint.open(last)
    newest = max(Checkpoint.open(other).content["step"] for other in last.parent.glob("*.pt") if other != last)
    again = RealRun(tmp_path, *SETTINGS)
    assert again.wait() == 0, again.output
    assert "truncated" in again.output
    assert re.search(rf"continuing from runs/run/checkpoints/\S+, step {newest}\n", again.output)
    assert content(again.run) == through
