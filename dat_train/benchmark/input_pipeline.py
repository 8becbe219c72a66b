"""Speed of the input pipeline: its stages, the whole loader, and timm's loader on the same files."""

import io
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from statistics import median

import torch
from timm.data import ImageDataset as TimmImages
from timm.data import create_loader
from torch import Tensor

from dat_train.data.augment import TrainTransform, keep_posterize_bits
from dat_train.data.batch import prepare_images
from dat_train.data.dataset import ImageDataset, Sample
from dat_train.data.images import UnreadableImage, read_bytes
from dat_train.data.loader import collate, train_loader
from dat_train.data.micro_batches import SampleKey
from dat_train.data.randomness import keyed_randomness

OURS, PLAIN, PREFETCHER = "dat-train", "timm", "timm, prefetcher"
STAGES = ("read", "decode", "crop and resize", "flip and augment", "collate", "normalize and erase")
GPU_SPEEDS = (500, 1000, 2000, 4000)  # training speeds of a GPU, images/s


@dataclass(frozen=True)
class LoaderSpeed:
    """Speed of one loader with a number of workers, by round.

    Attributes:
        name: OURS, PLAIN or PREFETCHER.
        workers: worker processes; 0: everything in the main process.
        cpu: seconds of CPU time per image, of all processes.
        wall: seconds per image in the steady state, after the batches that were prefetched.
    """

    name: str
    workers: int
    cpu: list[float]
    wall: list[float]

    @property
    def images_per_core(self) -> float:
        """Images per second of CPU time, at the median of the rounds."""
        return 1 / median(self.cpu)

    @property
    def images_per_second(self) -> float:
        """Images per second of wall time, at the median of the rounds."""
        return 1 / median(self.wall)


class _Files:
    """Reader for timm's ImageDataset: files of a dataset of this package, repeated up to `length` samples."""

    class_to_idx: dict = {}  # noqa: RUF012  timm's interface

    def __init__(self, dataset: ImageDataset, length: int) -> None:
        self.dataset = dataset
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[io.BufferedIOBase, int]:
        index %= len(self.dataset)
        encoded = self.dataset.encoded(index)
        file = io.BytesIO(encoded) if isinstance(encoded, bytes) else open(encoded, "rb")  # noqa: SIM115, PTH123
        return file, self.dataset.samples[index][1]


def stage_times(dataset: ImageDataset, batch_size: int, rounds: int) -> dict[str, float]:
    """CPU seconds per image of each stage, in one process with one thread: the median of the rounds.

    Args:
        dataset: files with a TrainTransform.
    """
    taken: dict[str, list[float]] = {stage: [] for stage in STAGES}
    for number in range(rounds + 1):
        seconds = _one_round(dataset, batch_size, number)
        if number:  # the first round fills the file cache
            for stage in STAGES:
                taken[stage].append(seconds[stage] / len(dataset))
    return {stage: median(values) for stage, values in taken.items()}


def _one_round(dataset: ImageDataset, batch_size: int, epoch: int) -> dict[str, float]:
    transform: TrainTransform = dataset.transform
    seconds = dict.fromkeys(STAGES, 0.0)

    def timed(stage: str, function: Callable, *arguments: object) -> object:
        begin = time.process_time()
        result = function(*arguments)
        seconds[stage] += time.process_time() - begin
        return result

    samples = []
    for index in range(len(dataset)):
        try:
            with keyed_randomness("sample", dataset.seed, epoch, index, 0):
                encoded = timed("read", read_bytes, dataset.encoded(index))
                decoded = timed("decode", transform.crop.decode, encoded)
                pixels = timed("crop and resize", lambda found=decoded: transform.crop.resize(*found))
                image, rectangle = timed("flip and augment", transform.augment, pixels)
        except UnreadableImage:
            continue
        samples.append(
            Sample(
                image,
                dataset.samples[index][1],
                index=index,
                unreadable=(),
                normalization=transform.normalization,
                rectangle=rectangle,
            )
        )
        if samples and (len(samples) == batch_size or index == len(dataset) - 1):
            batch = timed("collate", collate, samples)
            timed("normalize and erase", prepare_images, batch)
            samples = []
    return seconds


def loader_speeds(
    dataset: ImageDataset, workers: Sequence[int], *, images: int, batch_size: int, rounds: int, augment: dict
) -> list[LoaderSpeed]:
    """Measure our loader and both of timm's, interleaved, for each number of workers.

    All of them end with normalized float images in the main process. CPU time depends little on other programs that
    run on the machine, so its ratios hold on a machine that is not idle.

    Args:
        images: minimum per round. A round includes the start of the workers, about 0.1 s of CPU time.
        augment: arguments of timm's create_loader for the same augmentation.
    """
    batches = max(4, math.ceil(images / batch_size))
    found: dict[tuple[str, int], list[tuple[float, float]]] = {}
    for count in workers:
        warmup = 4 * count + 1  # more than are prefetched
        total = warmup + batches
        forms: dict[str, Callable[[int], Iterator[Tensor]]] = {
            OURS: partial(_our_batches, dataset, count, batch_size, total),
            PLAIN: partial(_timm_batches, dataset, count, batch_size, total, use_prefetcher=False, **augment),
            PREFETCHER: partial(_timm_batches, dataset, count, batch_size, total, use_prefetcher=True, **augment),
        }
        for number in range(rounds):
            for name in list(forms)[:: 1 if number % 2 else -1]:
                found.setdefault((name, count), []).append(_seconds(forms[name](number), warmup))
    return [
        LoaderSpeed(name, count, [cpu for cpu, _ in seconds], [wall for _, wall in seconds])
        for (name, count), seconds in found.items()
    ]


def _seconds(batches: Iterator[Tensor], warmup: int) -> tuple[float, float]:
    """Return CPU seconds per image of all batches, and wall seconds per image of those after the first `warmup`."""
    begin = _cpu_seconds()
    early = sum(len(images) for images in islice(batches, warmup))
    middle = time.perf_counter()
    late = sum(len(images) for images in batches)  # the workers end here, which makes their CPU time known
    wall = (time.perf_counter() - middle) / late
    return (_cpu_seconds() - begin) / (early + late), wall


def _cpu_seconds() -> float:
    """CPU time of this process and of its children that have ended."""
    return sum(os.times()[:4])


def _our_batches(dataset: ImageDataset, workers: int, batch_size: int, total: int, epoch: int) -> Iterator[Tensor]:
    sampler = _Cycle(len(dataset), batch_size, total, epoch)
    for batch in train_loader(dataset, sampler, workers=workers):
        yield prepare_images(batch)


class _Cycle:
    """Batches of keys, which repeat the dataset."""

    def __init__(self, size: int, batch_size: int, total: int, epoch: int) -> None:
        self.size, self.batch_size, self.total, self.epoch = size, batch_size, total, epoch

    def __len__(self) -> int:
        return self.total

    def __iter__(self) -> Iterator[list[SampleKey]]:
        for number in range(self.total):
            places = range(number * self.batch_size, (number + 1) * self.batch_size)
            yield [SampleKey(self.epoch + place // self.size, place % self.size, 0) for place in places]


def _timm_batches(
    dataset: ImageDataset, workers: int, batch_size: int, total: int, seed: int, **options
) -> Iterator[Tensor]:
    torch.manual_seed(seed)
    loader = create_loader(
        TimmImages(None, reader=_Files(dataset, total * batch_size)),
        dataset.transform.crop.size,
        batch_size,
        is_training=True,
        num_workers=workers,
        persistent_workers=False,
        device=torch.device("cpu"),
        **options,
    )
    for step in loader.dataset.transform.transforms:
        keep_posterize_bits(step)  # Pillow 13 raises an error otherwise
    for images, _ in loader:
        yield images


def ratios(speeds: Iterable[LoaderSpeed], workers: int) -> dict[str, dict[str, float]]:
    """Speed of our loader relative to each of timm's, by clock: medians of the ratios of the rounds."""
    by_name = {speed.name: speed for speed in speeds if speed.workers == workers}
    own = by_name.pop(OURS)
    return {
        name: {
            clock: median(b / a for a, b in zip(getattr(own, clock), getattr(other, clock), strict=True))
            for clock in ("cpu", "wall")
        }
        for name, other in by_name.items()
    }


def cores_needed(images_per_second: float) -> dict[int, int]:
    """Cores that keep GPUs of several training speeds (images/s) busy, from the speed of one core."""
    return {speed: math.ceil(speed / images_per_second) for speed in GPU_SPEEDS}
