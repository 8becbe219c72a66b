"""Data loaders with worker processes; batches do not depend on the number of workers."""

import multiprocessing.queues
import os
import pickle
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch._utils import ExceptionWrapper
from torch.utils.data import DataLoader, default_collate

from dat_train.data.batch import Batch
from dat_train.data.dataset import ImageDataset, Sample
from dat_train.data.micro_batches import EvaluationSampler, MicroBatchSampler
from dat_train.errors import UserError

MIN_SHARED_MEMORY = 1 << 30  # bytes of /dev/shm; with less, batches go through pipes, at some cost per batch


def train_loader(
    dataset: ImageDataset, sampler: MicroBatchSampler, *, workers: int = 0, pin_memory: bool = False
) -> Iterable[Batch]:
    """Build the loader of the sampler's micro-batches, in order, with one set of workers for all epochs."""
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
    """Build the loader of the images of this process; every image occurs once over all processes."""
    return _loader(dataset, EvaluationSampler(len(dataset), batch_size, rank, world_size), workers, pin_memory)


def _loader(dataset: ImageDataset, sampler: Iterable, workers: int, pin_memory: bool) -> DataLoader:
    combine = getattr(dataset, "collate", collate)
    return Loader(
        dataset,
        batch_sampler=sampler,
        num_workers=workers,
        collate_fn=AsBytes(combine) if workers and shared_memory_is_small() else combine,
        pin_memory=pin_memory,
        worker_init_fn=_init_worker if workers else None,
        prefetch_factor=4 if workers else None,
    )


class Loader(DataLoader):
    """DataLoader that raises a worker's UserError as one line, and reports a worker's death only in `next`.

    torch's signal handler would raise the death of a worker anywhere in the main thread, also in the middle of an
    update. Without the handler, the loader raises it in the call for the next batch.
    """

    def __iter__(self) -> Iterator[Batch]:
        has_handler = hasattr(signal, "SIGCHLD")  # not on Windows
        handler = signal.getsignal(signal.SIGCHLD) if has_handler else None
        batches = super().__iter__()  # the workers start here, not with the first batch
        # Python allows handlers to be set only in the main thread
        if has_handler and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGCHLD, handler)
        return WorkerBatches(batches)


class WorkerBatches:
    """Iterator over the batches of data workers.

    Attributes:
        workers: processes; none if the batches are made in this process.
    """

    def __init__(self, batches: Iterator[Batch]) -> None:
        self._batches = batches
        self.workers: list[multiprocessing.Process] = getattr(batches, "_workers", [])

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        try:
            batch = next(self._batches)
        except UserError as error:  # torch adds the worker's traceback to the message; its last line is "NAME: message"
            lines = str(error).splitlines()
            raise UserError(lines[-1].partition(": ")[2] if len(lines) > 1 else lines[0]) from None
        return pickle.loads(batch) if isinstance(batch, bytes) else batch


def shared_memory_is_small() -> bool:
    """True if /dev/shm cannot hold the batches of a few workers, as in Docker's default of 64 MB.

    False on systems without /dev/shm, where torch uses other shared memory.
    """
    try:
        system = os.statvfs("/dev/shm")
    except (OSError, AttributeError):
        return False
    return system.f_blocks * system.f_frsize < MIN_SHARED_MEMORY


class AsBytes:
    """Collate function whose batches pass through the worker's pipe instead of shared memory.

    Args:
        collate: makes a batch of samples.
    """

    def __init__(self, collate: Callable[[list[Any]], Any]) -> None:
        self.collate = collate

    def __call__(self, samples: list[Any]) -> bytes:
        return pickle.dumps(self.collate(samples), pickle.HIGHEST_PROTOCOL)


def collate(samples: list[Sample]) -> Batch:
    """Combine samples into a batch."""
    first, labels = samples[0], [sample.label for sample in samples]
    erasing = None
    if first.rectangle is not None:
        erasing = torch.tensor([sample.rectangle for sample in samples], dtype=torch.int64)
        erasing = erasing if erasing[:, 3].any() else None
    return Batch(
        _stack([sample.image for sample in samples]),
        torch.stack(labels) if isinstance(labels[0], Tensor) else torch.tensor(labels),
        indices=torch.tensor([sample.index for sample in samples]),
        unreadable=[path for sample in samples for path in sample.unreadable],
        normalization=first.normalization,
        erasing=erasing,
    )


def _stack(images: list[Tensor]) -> Tensor:
    """Stack images (C, H, W) to (B, C, H, W), keeping channels last in memory if the images have it."""
    channels_last = images[0].permute(1, 2, 0).is_contiguous()
    if channels_last:
        images = [image.permute(1, 2, 0) for image in images]
    # in a worker, default_collate writes into shared memory: one copy instead of two
    batch = torch.stack(images) if shared_memory_is_small() else default_collate(images)
    return batch.permute(0, 3, 1, 2) if channels_last else batch


def _init_worker(_number: int) -> None:
    torch.set_num_threads(1)
    multiprocessing.queues.Queue._on_queue_feeder_error = _send_error
    # A signal to the whole process group is meant for the main process: it finishes its step and then ends its workers
    # with SIGTERM. The handler of the main process would not end a worker in a read that does not return.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if hasattr(os, "setpgrp"):  # not on Windows
        os.setpgrp()
    for name in ("SIGINT", "SIGUSR1", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)


def _send_error(queue: multiprocessing.queues.Queue, _error: Exception, message: tuple[int, Any]) -> None:
    """Send the error of a batch that cannot be sent, for instance because shared memory or file descriptors run out.

    multiprocessing prints the error and drops the batch, and the main process would wait for it forever.
    """
    number, _batch = message
    queue.put((number, ExceptionWrapper(where="in a data worker")))
