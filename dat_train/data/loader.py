"""Batches from worker processes: the same for any number of them."""

import os
import signal
import threading
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from dat_train.data.dataset import ImageDataset, Sample
from dat_train.data.order import EvaluationSampler, MicroBatchSampler
from dat_train.errors import UserError


class Batch(NamedTuple):
    """Images (B, 3, H, W), labels (B,) and places in the set (B,), and the paths that could not be read."""

    images: Tensor
    labels: Tensor
    indices: Tensor
    unreadable: list[str]


def train_loader(
    dataset: ImageDataset, sampler: MicroBatchSampler, *, workers: int = 0, pin_memory: bool = False
) -> Iterable[Batch]:
    """The sampler's micro-batches in order; one set of workers for the whole run, epochs being the sampler's affair."""
    return _loader(dataset, sampler, workers, pin_memory)


def evaluation_loader(
    dataset: ImageDataset,
    *,
    batch_size: int,
    rank: int = 0,
    world_size: int = 1,
    workers: int = 0,
    pin_memory: bool = False,
) -> Iterable[Batch]:
    """This process' share of the set in batches; every image once over all processes."""
    return _loader(dataset, EvaluationSampler(len(dataset), batch_size, rank, world_size), workers, pin_memory)


def _loader(dataset: ImageDataset, sampler: Iterable, workers: int, pin_memory: bool) -> DataLoader:
    return Loader(
        dataset,
        batch_sampler=sampler,
        num_workers=workers,
        collate_fn=_collate,
        pin_memory=pin_memory,
        worker_init_fn=_init_worker if workers else None,
        prefetch_factor=4 if workers else None,
    )


class Loader(DataLoader):
    """torch's, except that a UserError of a worker arrives as it was raised, in one line, and a death when it matters.

    torch's signal handler would raise a worker's death anywhere in the main thread, in the middle of an update too.
    Without it the loader notices by itself when it is asked for the next batch.
    """

    def __iter__(self) -> Iterator[Batch]:
        handler = signal.getsignal(signal.SIGCHLD)
        batches = super().__iter__()  # the workers start here, not with the first batch
        if threading.current_thread() is threading.main_thread():  # torch sets its handler there alone, as Python asks
            signal.signal(signal.SIGCHLD, handler)
        return _without_traceback(batches)


def _without_traceback(batches: Iterator[Batch]) -> Iterator[Batch]:
    try:
        yield from batches
    except UserError as error:  # torch puts the worker's traceback into the message; its last line is "NAME: message"
        lines = str(error).splitlines()
        raise UserError(lines[-1].partition(": ")[2] if len(lines) > 1 else lines[0]) from None


def _collate(samples: list[Sample]) -> Batch:
    return Batch(
        torch.stack([sample.image for sample in samples]),
        torch.tensor([sample.label for sample in samples]),
        torch.tensor([sample.index for sample in samples]),
        [path for sample in samples for path in sample.unreadable],
    )


def _init_worker(_number: int) -> None:
    torch.set_num_threads(1)
    # A signal to the whole process group is for the main process: it finishes its step and then ends its workers, which
    # it does with SIGTERM, so that one cannot be ignored.
    os.setpgrp()
    for number in (signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
