"""The processes of a run: one by default, or those torchrun started."""

import contextlib
import os
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

NCCL_PATIENCE = timedelta(minutes=2)  # by which NCCL waits longer than gloo
START_PATIENCE = timedelta(minutes=10)  # for processes that import and start more slowly than this one
NOTICE_PATIENCE = 5.0  # seconds in which all processes notice that one is lost


class ProcessLost(UserError):  # noqa: N818  says what it is
    """Another process of the run does not answer: it ended, hangs, or cannot be reached."""


@dataclass(frozen=True)
class Processes:
    """This process among the run's.

    `control` is a group over the host's network (gloo) beside the one gradients use: what the processes agree on goes
    through it without waiting for, or occupying, the accelerator. None with one process. `store` is where they leave
    notes for each other when that fails; torchrun's own process keeps it, so it outlives them.
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
        """Each number's sum over all processes; waits for their hosts, not for any accelerator."""
        if self.control is None:
            return list(numbers)
        sums = torch.tensor(numbers, dtype=torch.int64)
        with self.collective("all_reduce of the step's counts"):
            dist.all_reduce(sums, group=self.control)
        return sums.tolist()

    def gather(self, value: object) -> list:
        """Every process' picklable `value`, in the order of ranks."""
        if self.control is None:
            return [value]
        values = [None] * self.world_size
        with self.collective("all_gather of notes"):
            dist.all_gather_object(values, value, group=self.control)
        return values

    def from_main(self, value: object) -> object:
        """The main process' picklable `value`, everywhere."""
        if self.control is None:
            return value
        box = [value]
        with self.collective("broadcast from rank 0"):
            dist.broadcast_object_list(box, src=0, group=self.control)
        return box[0]

    def on_main(self, action: Callable[[], object]) -> object:
        """Run `action` in the main process and return its picklable result in all processes.

        Raises:
            UserError: everywhere, when the action raises one.
        """
        value, complaint = None, None
        if self.is_main:
            try:
                value = action()
            except UserError as error:
                complaint = str(error)
        value, complaint = self.from_main((value, complaint))
        if complaint:
            raise UserError(complaint)
        return value

    def sum_(self, value: torch.Tensor) -> torch.Tensor:
        """Sum a tensor on the device over all processes, in place; does not wait for the device."""
        if self.control is not None:
            with self.collective("all_reduce of the loss"):
                dist.all_reduce(value)
        return value

    def wait(self) -> None:
        """Until every process is here."""
        if self.control is not None:
            with self.collective("barrier"):
                dist.barrier(group=self.control)

    def check_same(self, text: str, what: str) -> None:
        """Refuse to go on when `text` is not the same in every process.

        Raises:
            UserError: on every process, with the first differing line of the first process that differs.
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
        """Inside, a collective operation that fails is reported as one line with its `name` and who is missing.

        Raises:
            ProcessLost: a process ended, hangs for longer than the time-out, or cannot be reached.
        """
        try:
            yield
        except RuntimeError as error:
            if not self.store or not (isinstance(error, dist.DistError) or "gloo" in str(error)):
                raise
            waited = "imed out" in str(error)
            missing = self._missing()
            several = len(missing) > 1
            if waited:
                what = (
                    "do not answer (they hang or are cut off)"
                    if several
                    else "does not answer (it hangs or is cut off)"
                )
            else:
                what = "have ended" if several else "has ended"
            raise ProcessLost(
                f"{_ranks(missing)} {what}: the {name} cannot be completed; the same command continues from the last "
                f"checkpoint{', timeout_minutes=... waits longer' if waited else ''}"
            ) from error

    def is_first_to_report(self, topic: str) -> bool:
        """True for one of the processes that call this about `topic`; for rank 0 if it is one of them."""
        if self.store is None:
            return True
        if not self.is_main:
            time.sleep(1.0)
        count = [1]  # two reports are better than none
        _try_for(NOTICE_PATIENCE, lambda: count.append(self.store.add(f"reported/{topic}", 1)))
        return count[-1] == 1

    def _missing(self) -> list[int]:
        """Ranks that do not notice, within a moment, that something is wrong; these are what is wrong."""
        missing = set(range(self.world_size)) - {self.rank}

        def ask() -> None:
            self.store.set(f"noticed/{self.rank}", "")
            deadline = time.monotonic() + NOTICE_PATIENCE
            while missing and time.monotonic() < deadline:
                missing.difference_update([rank for rank in missing if self.store.check([f"noticed/{rank}"])])
                time.sleep(0.1)

        _try_for(NOTICE_PATIENCE + 1, ask)
        return sorted(missing)


def _try_for(seconds: float, action: Callable[[], object]) -> None:
    """Wait for `action`, which asks the store: it may be gone with its host, or out of reach and never answer."""

    def attempt() -> None:
        with contextlib.suppress(RuntimeError):
            action()

    thread = threading.Thread(target=attempt, daemon=True)
    thread.start()
    thread.join(seconds)


def start_processes(device: str = "auto", timeout_minutes: float = 10.0, deterministic: bool = False) -> Processes:
    """Join the processes torchrun started (RANK, LOCAL_RANK, WORLD_SIZE), or be the only one.

    Args:
        device: auto (cuda, then mps, then cpu), or one of these, or cuda:N with one process.
        timeout_minutes: how long a process waits for the others before the run ends with an error; while they start, at
            least 10.
        deterministic: choose algorithms that give the same bits every time, and refuse the others.

    Raises:
        UserError: a device that is not there, or a process that does not start.
    """
    rank, world_size, local_rank = (
        int(os.environ.get(n, d)) for n, d in (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0))
    )
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS starts
        torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = not deterministic
    where = resolve_device(device, local_rank, world_size)
    if where.type == "cuda":
        torch.cuda.set_device(where)
    if world_size == 1:
        return Processes(rank, world_size, local_rank, where)
    timeout = timedelta(minutes=timeout_minutes)
    store = _meet(rank, world_size, max(timeout, START_PATIENCE))
    cuda = where.type == "cuda"
    dist.init_process_group(
        "nccl" if cuda else "gloo",
        store=dist.PrefixStore("groups", store),
        rank=rank,
        world_size=world_size,
        # longer than gloo's on CUDA: gloo tells who is missing, NCCL's watchdog ends the process
        timeout=timeout + NCCL_PATIENCE if cuda else timeout,
        device_id=where if cuda else None,
    )
    control = dist.new_group(backend="gloo", timeout=timeout)
    return Processes(rank, world_size, local_rank=local_rank, device=where, control=control, store=store)


def _meet(rank: int, world_size: int, patience: timedelta) -> dist.Store:
    """Wait until all processes are here; from then on none is slow for having to start.

    torchrun keeps its store when it starts processes anew, with the addresses of those that are no more in it. So rank
    0 makes a name for this meeting and gives it to everyone who asks; what is under that name is of this meeting alone.

    Raises:
        UserError: naming those that did not come.
    """
    store, _, _ = next(dist.rendezvous("env://", timeout=patience))
    minutes = f"within {patience.total_seconds() / 60:g} minutes"
    if rank == 0:
        meeting = uuid.uuid4().hex
        deadline = time.monotonic() + patience.total_seconds()
        while absent := [r for r in range(1, world_size) if not store.check([f"here/{meeting}/{r}"])]:
            for other in absent:
                if store.check([f"question/{other}"]):
                    question = store.get(f"question/{other}").decode()
                    store.set(f"answer/{question}", meeting)
            if time.monotonic() > deadline:
                raise UserError(f"{_ranks(absent)} did not start {minutes}; look at what their machines say")
            time.sleep(0.02)
        store.set(f"begin/{meeting}", "")
    else:
        question = uuid.uuid4().hex
        store.set(f"question/{rank}", question)
        try:
            meeting = store.get(f"answer/{question}").decode()
            store.set(f"here/{meeting}/{rank}", "")
            store.wait([f"begin/{meeting}"])
        except RuntimeError as error:
            raise UserError(f"rank 0 did not begin {minutes}; look at what its machine says") from error
    return dist.PrefixStore(meeting, store)


def _ranks(ranks: Sequence[int]) -> str:
    """rank 3; ranks 8 to 15; ranks 1, 4, 6."""
    if not ranks:
        return "a process"
    if len(ranks) == 1:
        return f"rank {ranks[0]}"
    if len(ranks) > 2 and ranks[-1] - ranks[0] == len(ranks) - 1:
        return f"ranks {ranks[0]} to {ranks[-1]}"
    return f"ranks {', '.join(map(str, ranks))}"


def stop_processes() -> None:
    """Leave the group, if there is one."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def resolve_device(name: str, local_rank: int = 0, world_size: int = 1) -> torch.device:
    """The device called `name` for the process `local_rank` of this machine.

    Raises:
        UserError: an unknown name, or a device this machine does not have.
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
                f"device={name}: process {local_rank} wants GPU {index}, this machine shows {found}; use device=cpu "
                "or start as many processes as there are GPUs"
            )
        return torch.device("cuda", index)
    if kind == "mps" and not mps:
        raise UserError("device=mps: this machine has no Metal GPU that torch can use; use device=cpu")
    if kind == "mps" and world_size > 1:
        raise UserError("device=mps cannot be shared by several processes; start one process, or use device=cpu")
    return torch.device(kind)
