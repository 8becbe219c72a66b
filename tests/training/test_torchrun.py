"""Runs under the real torchrun: a killed rank, a disconnected machine, a requeued job, and back to one process.

The scripts for SLURM are real, and run by bash; SLURM's own commands are small stand-ins with their behaviour.
"""

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from training.real_run import SETTINGS, RealRun, ended, steps_done
from training.test_layout import furthest

from dat_train.models.weights.checkpoint import Checkpoint
from dat_train.runtime.stop_request import PREEMPTED
from dat_train.training.run_folder import read_rows

pytestmark = pytest.mark.long

ROOT = Path(__file__).parents[2]
LONG = ("data.workers=0", "dtype=fp64", "epochs=18", "device=cpu")  # 108 steps
SRUN = """#!/usr/bin/env bash
while [[ $1 == --* ]]; do shift; done
set -m # as a task of SLURM, a process group of its own, all of which gets a signal
"$@" &
trap 'kill -USR1 -- -$!' USR1
trap 'kill -TERM -- -$!' TERM
wait $!; code=$?
while kill -0 $! 2>/dev/null; do wait $!; code=$?; done
exit $code
"""
SCONTROL = """#!/usr/bin/env bash
case $1 in
    show) echo localhost ;;
    requeue) echo "$2" >>"$REQUEUED" ;;
esac
"""


class Job:
    """A shell command in a separate process group, in `folder`, with the `output` of all its processes."""

    def __init__(self, folder: Path, *command: str | Path, **environment: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.run = folder / "runs" / "run"
        self.path = folder / f"job-{time.monotonic_ns()}.txt"
        self.mark = f"JOB_OF_TEST={time.monotonic_ns()}"  # in the environment of all its processes
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHON": str(Path(os.sys.executable))} | environment
        environment |= dict([self.mark.split("=")])
        with self.path.open("wb") as file:
            self.process = subprocess.Popen(
                [*map(str, command)], cwd=folder, env=environment, stdout=file, stderr=file, start_new_session=True
            )

    @property
    def output(self) -> str:
        return self.path.read_text()

    def wait_for(self, condition, seconds: float = 120) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert self.process.poll() is None and time.monotonic() < deadline, self.output
            time.sleep(0.02)

    def processes(self, *marks: str) -> list[int]:
        """Ids of the job's processes with all `marks` in their environment, as RANK=1."""
        found = []
        for path in Path("/proc").glob("[0-9]*/environ"):
            try:
                variables = path.read_bytes().split(b"\0")
            except OSError:  # it has ended
                continue
            if all(mark.encode() in variables for mark in (self.mark, *marks)):
                found.append(int(path.parent.name))
        return found

    def end(self) -> None:
        for process in self.processes():
            os.kill(process, signal.SIGKILL)
        self.process.wait()


def sessions(run: Path) -> list[int]:
    """World sizes of the processes that trained in a run's folder, one after the other."""
    return [row["processes"] for row in read_rows(run / "timing.jsonl") if "started" in row]


@pytest.fixture(scope="module")
def commands(tmp_path_factory):
    """A folder with srun and scontrol, and the environment of a job."""
    folder = tmp_path_factory.mktemp("bin")
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    return {
        "PATH": f"{folder}:{os.environ['PATH']}",
        "SLURM_JOB_ID": "4711",
        "SLURM_JOB_NUM_NODES": "1",
        "SLURM_JOB_NODELIST": "localhost",
        "DAT_TRAIN_DIR": str(ROOT),
        "NPROC": "2",
        "REQUEUED": str(folder / "requeued"),
    }


@pytest.fixture(scope="module")
def moved(tmp_path_factory, commands):
    """A run that began on one process, was stopped, continued on two of torchrun in a SLURM job, lost one of them, was
    requeued at its time limit, and ended on one process; and an undisturbed run."""
    folder = tmp_path_factory.mktemp("moved")
    through = RealRun(folder / "through", *LONG)
    alone = RealRun(folder / "moved", *LONG)
    with ended(through, alone):
        alone.wait_for_step(10)
        alone.send(signal.SIGTERM)
        assert alone.wait(30) == PREEMPTED

        job = Job(folder / "moved", "bash", ROOT / "scripts/slurm/train.sbatch", *SETTINGS, *LONG, **commands)
        try:
            before = steps_done(job.run)
            job.wait_for(lambda: steps_done(job.run) > before + 5)
            (rank,) = job.processes("RANK=1")
            os.kill(rank, signal.SIGKILL)
            job.wait_for(lambda: len(sessions(job.run)) == 3)
            before = steps_done(job.run)
            job.wait_for(lambda: steps_done(job.run) > before + 5)
            job.process.send_signal(signal.SIGUSR1)
            code = job.process.wait(60)
            left = job.processes()
        finally:
            job.end()

        back = RealRun(folder / "moved", *LONG)
        with ended(back):
            assert back.wait() == 0, back.output
        assert through.wait() == 0, through.output
    return {"through": through.run, "moved": back.run, "job": job, "code": code, "left": left}


def test_a_killed_rank_leads_to_a_restart_that_continues_by_itself(moved):
    assert sessions(moved["moved"]) == [1, 2, 2, 1]
    assert moved["job"].output.count("continuing after step") == 2
    assert "rank 1 has ended" in moved["job"].output  # message of rank 0 before the restart


def test_a_run_moved_from_one_process_to_two_and_back_in_the_middle_of_epochs_is_the_same_run(moved):
    through, back = (Checkpoint.open(moved[name] / "checkpoints/last.pt").content for name in ("through", "moved"))
    for part in ("model", "ema", "optimizer"):
        assert furthest(through[part], back[part]) < 1e-9
    rows = [read_rows(moved[name] / "metrics.jsonl") for name in ("through", "moved")]
    assert len(rows[0]) == 108 + 18 and furthest(*rows) < 1e-9  # each step and each validation once


def test_a_job_whose_time_is_over_requeues_itself(moved, commands):
    assert moved["code"] == PREEMPTED
    assert Path(commands["REQUEUED"]).read_text() == "4711\n"
    assert "stopped by SIGTERM after step" in moved["job"].output
    assert moved["left"] == []


def test_rank_0_prints_and_every_rank_writes_its_log_file(moved):
    lines = moved["job"].output.splitlines()
    steps = [line for line in lines if line.startswith("step ")]
    assert len(steps) > 10 and len(steps) == len(set(steps))
    for name in ("log.txt", "log-rank1.txt"):
        text = (moved["moved"] / name).read_text()
        assert "continuing after step" in text and "stopped by SIGTERM" in text


def test_a_job_that_fails_or_finishes_is_not_requeued(tmp_path, commands):
    requeued = str(tmp_path / "requeued")
    (tmp_path / "node").mkdir()
    for code in (0, 3):
        node = tmp_path / "checkout" / "scripts" / "slurm" / "node.sh"
        node.parent.mkdir(parents=True, exist_ok=True)
        node.write_text(f"#!/usr/bin/env bash\nexit {code}\n")
        node.chmod(0o755)
        environment = os.environ | commands | {"DAT_TRAIN_DIR": str(tmp_path / "checkout"), "REQUEUED": requeued}
        done = subprocess.run(["bash", ROOT / "scripts/slurm/train.sbatch"], env=environment, cwd=tmp_path)
        assert done.returncode == code
    assert not Path(requeued).exists()


def test_the_scripts_are_clean_bash():
    scripts = sorted((ROOT / "scripts/slurm").iterdir())
    assert [path.name for path in scripts] == ["node.sh", "train.sbatch"]
    checker = shutil.which("shellcheck", path=f"{Path(os.sys.executable).parent}:{os.environ['PATH']}")
    assert checker, "shellcheck comes with the development installation"
    subprocess.run([checker, *scripts], check=True)


# Two machines


@pytest.fixture
def two_machines():
    """Names of two network namespaces with a cable between them, 10.77.0.1 and 10.77.0.2."""
    names = [f"dat{os.getpid()}a", f"dat{os.getpid()}b"]
    if shutil.which("ip") is None:
        pytest.skip("needs ip of iproute2")
    try:
        for name in names:
            made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True)
            if made.returncode:
                pytest.skip(f"network namespaces are not permitted here: {made.stderr.strip()}")
        pair = ["ip", "link", "add", "cable", "netns", names[0], "type", "veth", "peer", "cable", "netns", names[1]]
        subprocess.run(pair, check=True)
        for number, name in enumerate(names, 1):
            for words in (f"addr add 10.77.0.{number}/24 dev cable", "link set cable up", "link set lo up"):
                subprocess.run(["ip", "-n", name, *words.split()], check=True)
        yield names
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True)


@pytest.mark.slow
def test_of_two_machines_one_that_is_cut_off_ends_and_the_other_continues_alone(two_machines, tmp_path):
    settings = ("data.workers=0", "device=cpu", "epochs=15", "timeout_minutes=0.25")
    patience = "keep_alive_interval=1,keep_alive_max_attempt=3,last_call_timeout=20,read_timeout=20,join_timeout=60"
    jobs = [
        Job(
            tmp_path,
            *("ip", "netns", "exec", name, ROOT / "scripts/slurm/node.sh", *SETTINGS, *settings),
            NPROC="1",
            NNODES="1:2",
            RDZV_ID="cable",
            RDZV_ENDPOINT="10.77.0.1:29400",
            RDZV_CONF=f"is_host={2 - number},{patience}",
            PET_LOCAL_ADDR=f"10.77.0.{number}",
            GLOO_SOCKET_IFNAME="cable",
        )
        for number, name in enumerate(two_machines, 1)
    ]
    here, away = jobs
    try:
        here.wait_for(lambda: steps_done(here.run) > 10)
        assert sessions(here.run) == [2]
        subprocess.run(["ip", "-n", two_machines[0], "link", "set", "cable", "down"], check=True)
        assert here.process.wait(180) == 0, here.output
        # torchrun itself waits there, until TCP gives up; its training process has ended
        assert away.processes("RANK=1") == [], away.output
    finally:
        for job in jobs:
            job.end()
    assert "rank 1 does not answer (it hangs or is cut off)" in here.output
    assert "rank 0 does not answer (it hangs or is cut off)" in away.output
    assert sessions(here.run)[-1] == 1 and steps_done(here.run) == 90
    assert "continuing after step" in here.output
