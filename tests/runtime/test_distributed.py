"""Process groups and the choice of devices."""

import socket
from datetime import timedelta

import pytest
import torch
from training.small_run import ALONE, in_processes

from dat_train.errors import UserError
from dat_train.runtime import processes as runtime_processes
from dat_train.runtime.processes import resolve_device, start_processes


@pytest.mark.parametrize(
    ("rank", "port", "message"),
    [
        (0, "taken", "the port is in use; set another MASTER_PORT for all processes"),
        (1, "free", r"rank 0 did not answer within 0\.01 minutes; check the address, and the output of rank 0"),
        (0, "many", r"not an address \(invalid literal .*\); the port is a number from 0 to 65535"),
    ],
)
def test_an_address_of_processes_that_cannot_be_used_is_one_line(rank, port, message, monkeypatch):
    with socket.socket() as other:
        other.bind(("", 0))
        if port == "taken":
            other.listen()
        port = port if port == "many" else other.getsockname()[1]
        for name, value in {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "RANK": rank, "WORLD_SIZE": 2}.items():
            monkeypatch.setenv(name, str(value))
        with pytest.raises(UserError, match=f"MASTER_ADDR=127.0.0.1 MASTER_PORT={port}: {message}"):
            runtime_processes._rendezvous(rank, 2, timedelta(seconds=0.6))


@pytest.fixture
def gpus(monkeypatch):
    """Sets how many GPUs torch sees, and whether there is Metal."""

    def see(count: int, metal: bool = False) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: metal)

    return see


def test_auto_chooses_the_device(gpus):
    gpus(4)
    assert [resolve_device("auto", rank, 4).index for rank in range(4)] == [0, 1, 2, 3]
    assert resolve_device("cuda:2") == torch.device("cuda", 2)
    gpus(0, metal=True)
    assert resolve_device("auto").type == "mps"
    assert resolve_device("auto", 1, 2).type == "cpu"  # Metal is not shared
    gpus(0)
    assert resolve_device("auto").type == "cpu"


@pytest.mark.parametrize(
    ("count", "arguments", "message"),
    [
        (0, ("gpu",), "device='gpu' is unknown; choose auto, cpu, cuda or mps"),
        (0, ("cuda:x",), "device='cuda:x' is unknown"),
        (0, ("cuda",), "process 0 needs GPU 0, this machine has 0; use device=cpu"),
        (2, ("auto", 2, 3), "process 2 needs GPU 2, this machine has 2"),
        (2, ("cuda:1", 0, 2), "device=cuda:1 cannot be shared by 2 processes; use device=cuda, which gives each its"),
        (0, ("mps",), "device=mps: this machine has no Metal GPU that torch can use; use device=cpu"),
    ],
)
def test_a_device_that_is_not_there_is_refused(gpus, count, arguments, message):
    gpus(count)
    with pytest.raises(UserError, match=message.replace("(", r"\(")):
        resolve_device(*arguments)


def test_metal_is_for_one_process(gpus):
    gpus(0, metal=True)
    with pytest.raises(UserError, match="device=mps cannot be shared by several processes"):
        resolve_device("mps", 0, 2)


def test_collective_operations_of_a_single_process_return_its_values(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    alone = start_processes("cpu")
    assert alone == ALONE and alone.is_main and alone.local_world_size == 1
    assert alone.total(3, 4) == [3, 4]
    assert alone.gather("a") == ["a"] and alone.from_main("a") == "a" and alone.on_main(lambda: 5) == 5
    assert alone.sum_(torch.ones(2)).tolist() == [1, 1]
    alone.check_same("a", "configuration")


def test_deterministic_refuses_other_algorithms(monkeypatch):
    before = torch.backends.cudnn.benchmark
    try:
        start_processes("cpu", deterministic=True)
        assert torch.are_deterministic_algorithms_enabled() and not torch.backends.cudnn.benchmark
    finally:
        torch.use_deterministic_algorithms(False)
        torch.backends.cudnn.benchmark = before


def refused(action) -> str:
    with pytest.raises(UserError) as refusal:
        action()
    return str(refusal.value)


def talk(processes) -> None:
    """Exchange of values between two processes; a failed assertion ends the process with an error."""
    rank = processes.rank
    assert processes.total(rank + 1, True) == [3, 2]
    assert processes.gather({"rank": rank}) == [{"rank": 0}, {"rank": 1}]
    assert processes.from_main(rank) == 0
    assert processes.sum_(torch.tensor([1.0 + rank])).tolist() == [3.0]

    assert processes.on_main(lambda: f"of {rank}") == "of 0"

    def fail():
        raise UserError("the disk is full")

    assert refused(lambda: processes.on_main(fail)) == "the disk is full"  # in both

    processes.check_same("a: 1\nb: 2\n", "configuration")
    difference = refused(lambda: processes.check_same(f"a: 1\n  b: {rank}\nc: 3\n", "configuration"))
    assert difference == (
        "the processes disagree on the configuration: 'b: 0' on rank 0, 'b: 1' on rank 1; "
        "start every process with the same command"
    )
    longer = refused(lambda: processes.check_same("a: 1\n" + "b: 2\n" * rank, "configuration"))
    assert "'' on rank 0, 'b: 2' on rank 1" in longer


def test_two_processes_exchange_values_and_report_differences():
    in_processes(2, talk)
