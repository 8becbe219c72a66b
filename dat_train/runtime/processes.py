"""Processes of a run: a single process, or the group started by torchrun."""

import contextlib
import os
import platform
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist

from dat_train.errors import UserError

NCCL_MARGIN = timedelta(minutes=2)  # added to gloo's time-out for NCCL
START_TIMEOUT = timedelta(minutes=10)  # for processes that start more slowly than this one
NOTICE_SECONDS = 5.0  # time in which all remaining processes report the loss of one


class ProcessLost(UserError):  # noqa: N818  names the event
    """Another process of the run has ended, hangs, or cannot be reached."""


@dataclass(frozen=True)
class Processes:
    """This process and its process group.

    Attributes:
        control: gloo group for values on the host, separate from the group for gradients, so that its operations
            neither wait for the accelerator nor occupy it. None with a single process.
        store: key-value store, used to report failures when collective operations fail. The torchrun agent hosts it,
            so it remains available after a process of the run has ended.
    """

    rank: int
    world_size: int
    local_rank: int
    device: torch.device
    control: dist.ProcessGroup | None = None
    store: dist.Store | None = None

    @property
    def local_world_size(self) -> int:
        """Processes on this machine."""
        return int(os.environ.get("LOCAL_WORLD_SIZE", self.world_size))

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def total(self, *numbers: int) -> list[int]:
        """Sum of each number over all processes, on the hosts; does not wait for an accelerator."""
        if self.control is None:
            return list(numbers)
        sums = torch.tensor(numbers, dtype=torch.int64)
        with self.collective("all_reduce of the step's counts"):
            dist.all_reduce(sums, group=self.control)
        return sums.tolist()

    def gather(self, value: object) -> list:
        """Gather a picklable `value` from all processes, in the order of ranks."""
        if self.control is None:
            return [value]
        values = [None] * self.world_size
        with self.collective("all_gather of notes"):
            dist.all_gather_object(values, value, group=self.control)
        return values

    def from_main(self, value: object) -> object:
        """Broadcast a picklable `value` from the main process to all processes."""
        if self.control is None:
            return value
        box = [value]
        with self.collective("broadcast from rank 0"):
            dist.broadcast_object_list(box, src=0, group=self.control)
        return box[0]

    def on_main(self, action: Callable[[], object]) -> object:
        """Run `action` in the main process and return its picklable result in all processes.

        Raises:
            UserError: in all processes, if `action` raises one.
        """
        value, message = None, None
        if self.is_main:
            try:
                value = action()
            except UserError as error:
                message = str(error)
        value, message = self.from_main((value, message))
        if message:
            raise UserError(message)
        return value

    def sum_(self, value: torch.Tensor) -> torch.Tensor:
        """Sum a tensor on the device over all processes, in place; does not wait for the device."""
        if self.control is not None:
            with self.collective("all_reduce of the loss"):
                dist.all_reduce(value)
        return value

    def check_same(self, text: str, what: str) -> None:
        """Check that `text` is equal in all processes.

        Raises:
            UserError: in all processes, with the first differing line of the first process that differs.
        """
        texts = self.gather(text)
        for rank, other in enumerate(texts):
            if other == texts[0]:
                continue
            mine, theirs = texts[0].splitlines(), other.splitlines()
            pairs = zip(mine + [""] * len(theirs), theirs + [""] * len(mine), strict=True)
            a, b = next(pair for pair in pairs if pair[0] != pair[1])
            raise UserError(
                f"the processes disagree on the {what}: {a.strip()!r} on rank 0, {b.strip()!r} on rank {rank}; "
                "start every process with the same command"
            )

    @contextmanager
    def collective(self, name: str) -> Iterator[None]:
        """Context manager that turns a failure of the collective operation `name` into one line with the missing ranks.

        Raises:
            ProcessLost: a process has ended, hangs for longer than the time-out, or cannot be reached.
        """
        try:
            yield
        except RuntimeError as error:
            if not self.store or not (isinstance(error, dist.DistError) or "gloo" in str(error)):
                raise
            waited = "imed out" in str(error)
            missing = self._missing()
            if len(missing) > 1:
                what = "do not answer (they hang or are cut off)" if waited else "have ended"
            else:
                what = "does not answer (it hangs or is cut off)" if waited else "has ended"
            raise ProcessLost(
                f"{_ranks(missing)} {what}: the {name} cannot be completed; the same command continues from the last "
                f"checkpoint{', timeout_minutes=... waits longer' if waited else ''}"
            ) from error

    def is_first_to_report(self, topic: str) -> bool:
        """Return True in one of the processes that report `topic`; in rank 0 if it is among them."""
        if self.store is None:
            return True
        if not self.is_main:
            time.sleep(1.0)
        count = [1]  # if the store does not answer, the report is printed
        _try_for(NOTICE_SECONDS, lambda: count.append(self.store.add(f"reported/{topic}", 1)))
        return count[-1] == 1

    def _missing(self) -> list[int]:
        """Ranks that have not reported the failure to the store within NOTICE_SECONDS: the cause of the failure."""
        missing = set(range(self.world_size)) - {self.rank}

        def ask() -> None:
            self.store.set(f"noticed/{self.rank}", "")
            deadline = time.monotonic() + NOTICE_SECONDS
            while missing and time.monotonic() < deadline:
                missing.difference_update([rank for rank in missing if self.store.check([f"noticed/{rank}"])])
                time.sleep(0.1)

        _try_for(NOTICE_SECONDS + 1, ask)
        return sorted(missing)


def _try_for(seconds: float, action: Callable[[], object]) -> None:
    """Run `action`, which uses the store, for at most `seconds`: the store's host may be down or unreachable."""

    def attempt() -> None:
        with contextlib.suppress(RuntimeError):
            action()

    thread = threading.Thread(target=attempt, daemon=True)
    thread.start()
    thread.join(seconds)


def start_processes(device: str = "auto", timeout_minutes: float = 10.0, deterministic: bool = False) -> Processes:
    """Join the process group started by torchrun (RANK, LOCAL_RANK, WORLD_SIZE), or use a single process.

    Args:
        device: auto (cuda, then mps, then cpu), or one of these, or cuda:N with one process.
        timeout_minutes: maximum wait for other processes before the run ends with an error; at least 10 during startup.
        deterministic: use deterministic algorithms only, and raise an error for others.

    Raises:
        UserError: the device is not available, or a process did not start.
    """
    rank, world_size, local_rank = (
        int(os.environ.get(n, d)) for n, d in (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0))
    )
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS starts
    torch.use_deterministic_algorithms(deterministic)
    torch.backends.cudnn.benchmark = not deterministic
    try:
        where = resolve_device(device, local_rank, world_size)
    except UserError as error:
        if rank:  # the command prints errors of rank 0 only
            print(f"error on rank {rank} ({platform.node()}): {error}", file=sys.stderr)
        raise
    if where.type == "cuda":
        torch.cuda.set_device(where)
    if world_size == 1:
        return Processes(rank, world_size, local_rank, where)
    timeout = timedelta(minutes=timeout_minutes)
    store = _rendezvous(rank, world_size, max(timeout, START_TIMEOUT))
    cuda = where.type == "cuda"
    dist.init_process_group(
        "nccl" if cuda else "gloo",
        store=dist.PrefixStore("groups", store),
        rank=rank,
        world_size=world_size,
        # longer than gloo's on CUDA: gloo's error names missing ranks, but NCCL's watchdog ends the process
        timeout=timeout + NCCL_MARGIN if cuda else timeout,
        device_id=where if cuda else None,
    )
    control = dist.new_group(backend="gloo", timeout=timeout)
    return Processes(rank, world_size, local_rank=local_rank, device=where, control=control, store=store)


def _rendezvous(rank: int, world_size: int, timeout: timedelta) -> dist.Store:
    """Wait until all processes have started, and return a store for this start of the run.

    torchrun keeps its store when it restarts processes, with the addresses of the former ones. Therefore rank 0 creates
    a unique prefix and sends it to every rank that requests it. All keys of this start have the prefix.

    Raises:
        UserError: ranks that did not start in time, or an address that cannot be used.
    """
    minutes = f"within {timeout.total_seconds() / 60:g} minutes"
    try:
        store, _, _ = next(dist.rendezvous("env://", timeout=timeout))
    except (RuntimeError, ValueError) as error:
        address = " ".join(f"{name}={os.environ.get(name)}" for name in ("MASTER_ADDR", "MASTER_PORT"))
        raise UserError(f"{address}: {_rendezvous_fault(error, rank, minutes)}") from error
    if rank == 0:
        prefix = uuid.uuid4().hex
        deadline = time.monotonic() + timeout.total_seconds()
        while absent := [r for r in range(1, world_size) if not store.check([f"here/{prefix}/{r}"])]:
            for other in absent:
                if store.check([f"request/{other}"]):
                    request = store.get(f"request/{other}").decode()
                    store.set(f"reply/{request}", prefix)
            if time.monotonic() > deadline:
                raise UserError(f"{_ranks(absent)} did not start {minutes}; check the output of these processes")
            time.sleep(0.02)
        store.set(f"begin/{prefix}", "")
    else:
        request = uuid.uuid4().hex
        store.set(f"request/{rank}", request)
        try:
            prefix = store.get(f"reply/{request}").decode()
            store.set(f"here/{prefix}/{rank}", "")
            store.wait([f"begin/{prefix}"])
        except RuntimeError as error:
            raise UserError(f"rank 0 did not start {minutes}; check the output of rank 0") from error
    return dist.PrefixStore(prefix, store)


def _rendezvous_fault(error: Exception, rank: int, minutes: str) -> str:
    """Cause of a failed rendezvous, and what to do.

    Args:
        minutes: "within 10 minutes", the time-out.
    """
    text = str(error)
    if isinstance(error, ValueError):
        return f"not an address ({text}); the port is a number from 0 to 65535"
    if "EADDRINUSE" in text:
        return "the port is in use; set another MASTER_PORT for all processes"
    if "clients joined" in text:
        return f"not all processes started {minutes}; check the output of the others"
    if rank == 0 and "imed out" not in text:
        return f"the address cannot be used ({text.splitlines()[0]})"
    return f"rank 0 did not answer {minutes}; check the address, and the output of rank 0"


def _ranks(ranks: Sequence[int]) -> str:
    """Format ranks: rank 3; ranks 8 to 15; ranks 1, 4, 6."""
    if not ranks:
        return "a process"
    if len(ranks) == 1:
        return f"rank {ranks[0]}"
    if len(ranks) > 2 and ranks[-1] - ranks[0] == len(ranks) - 1:
        return f"ranks {ranks[0]} to {ranks[-1]}"
    return f"ranks {', '.join(map(str, ranks))}"


def stop_processes() -> None:
    """Destroy the process group, if there is one."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def resolve_device(name: str, local_rank: int = 0, world_size: int = 1) -> torch.device:
    """Return the device `name` of the process `local_rank` on this machine.

    Raises:
        UserError: an unknown name, or a device that this machine does not have.
    """
    mps = torch.backends.mps.is_available()
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if mps and world_size == 1 else "cpu"
    kind, _, number = name.partition(":")
    if kind not in ("cpu", "cuda", "mps") or (number and not number.isdigit()):
        raise UserError(f"device={name!r} is unknown; choose auto, cpu, cuda or mps")
    if number and world_size > 1:
        raise UserError(
            f"device={name} cannot be shared by {world_size} processes; use device={kind}, which gives each its own"
        )
    if kind == "cuda":
        found = torch.cuda.device_count()
        index = int(number) if number else local_rank
        if index >= found:
            raise UserError(
                f"device={name}: process {local_rank} needs GPU {index}, this machine has {found}; use device=cpu "
                "or start as many processes as there are GPUs"
            )
        return torch.device("cuda", index)
    if kind == "mps" and not mps:
        raise UserError("device=mps: this machine has no Metal GPU that torch can use; use device=cpu")
    if kind == "mps" and world_size > 1:
        raise UserError("device=mps cannot be shared by several processes; start one process, or use device=cpu")
    return torch.device(kind)
