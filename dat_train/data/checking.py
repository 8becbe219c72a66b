"""Check of all images of a data set: each is read and decoded once, in parallel."""

import hashlib
import os
import signal
import stat
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import NamedTuple

from dat_train.data.dataset import ImageDataset
from dat_train.data.images import UnreadableImage, image_error, printable, read_rgb
from dat_train.data.reading.image_files import first_named
from dat_train.data.scenes.scene_checking import CheckedMasks, CheckedObjects
from dat_train.data.storages.imagenet_tests import synsets
from dat_train.errors import UserError

Part = ImageDataset | CheckedMasks | CheckedObjects

CHUNK = 16  # images given to a process at a time
CHUNKS_AHEAD = 4  # for each process; results wait in memory until the earlier ones are there
IMAGENET_IMAGES = {"train": 1_281_167, "val": 50_000}
IMAGENET_PER_CLASS = {"train": (732, 1300), "val": (50, 50)}

_dataset: Part | None = None  # of a worker process


class CheckedImage(NamedTuple):
    """Result for one image.

    Attributes:
        index: in the set.
        size: (width, height), pixels.
        digest: hash of its file.
        reason: fault of the image; None: it can be used.
        amounts: pixels or objects of each class in it, for segmentation and detection.
    """

    index: int
    size: tuple[int, int] = (0, 0)
    digest: bytes = b""
    reason: str | None = None
    amounts: dict[int, int] | None = None


def check_images(dataset: Part, workers: int) -> Iterator[CheckedImage]:
    """Read and decode every image of `dataset`; yield the results in order.

    Args:
        workers: processes; 0: in this process.

    Raises:
        UserError: a process was killed.
    """
    if workers == 0:
        yield from (check_image(dataset, index) for index in range(len(dataset)))
        return
    with ProcessPoolExecutor(workers, initializer=_start_worker, initargs=(dataset,)) as pool:
        try:
            yield from _in_order(pool, len(dataset), CHUNKS_AHEAD * workers)
        except BrokenProcessPool as error:
            raise UserError(
                "a process of dat-check died, most often because the memory is full: a smaller workers=... needs less "
                "(workers=0 uses no further process)"
            ) from error
        except BaseException:  # an interrupt: the chunks in work are not waited for
            for process in list(pool._processes.values()):
                process.kill()
            raise


def _in_order(pool: ProcessPoolExecutor, images: int, ahead: int) -> Iterator[CheckedImage]:
    """Yield the results of all images in order, with at most `ahead` chunks in work."""
    pending: deque[Future] = deque()
    for first in range(0, images, CHUNK):
        if len(pending) == ahead:
            yield from pending.popleft().result()
        pending.append(pool.submit(_check, range(first, min(first + CHUNK, images))))
    while pending:
        yield from pending.popleft().result()


def check_image(dataset: Part, index: int) -> CheckedImage:
    """Read and decode the image at `index`; of segmentation and detection, compare its mask or objects with it."""
    name = dataset.samples[index][0]
    classification = isinstance(dataset, ImageDataset)
    try:
        content = dataset.encoded(index) if classification else name
        if isinstance(content, str):
            if not stat.S_ISREG(os.stat(content).st_mode):  # noqa: PTH116  reading a FIFO could wait forever
                return CheckedImage(index, reason="not a regular file")
            content = Path(content).read_bytes()
        image = read_rgb(content, name)
        amounts = None if classification else dataset.amounts(index, image)
    except (UnreadableImage, UserError) as error:
        start = printable(name)
        return CheckedImage(index, reason=str(error).removeprefix(f"{start}: ").removeprefix(f"{start} "))
    except Exception as error:  # of the disk or the archive
        fault = image_error(name, error)
        if not isinstance(fault, UnreadableImage):
            raise fault from error
        return CheckedImage(index, reason=fault.reason)
    return CheckedImage(index, image.size, hashlib.blake2b(content, digest_size=16).digest(), amounts=amounts)


def _start_worker(dataset: Part) -> None:
    global _dataset
    _dataset = dataset
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the main process ends its workers
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _check(indices: range) -> list[CheckedImage]:
    return [check_image(_dataset, index) for index in indices]


def imagenet_problems(split: str, counts: dict[str, int]) -> list[str]:
    """Differences between a split and a complete copy of ImageNet-1K, one line each.

    Args:
        split: "train" or "val".
        counts: number of images by class name.
    """
    known = synsets("imagenet")
    fewest, most = IMAGENET_PER_CLASS[split]
    missing = [name for name in known if name not in counts]
    unknown = sorted(counts.keys() - set(known))
    wrong = [f"{name} ({count:,})" for name, count in counts.items() if not fewest <= count <= most]
    problems = []
    if missing:
        problems.append(f"{split}: {len(missing):,} of {len(known):,} classes are missing ({first_named(missing)})")
    if unknown:
        problems.append(f"{split}: {len(unknown):,} classes are not in ImageNet-1K ({first_named(unknown)})")
    if sum(counts.values()) != IMAGENET_IMAGES[split]:
        problems.append(f"{split}: {sum(counts.values()):,} images, a whole copy has {IMAGENET_IMAGES[split]:,}")
    if wrong:
        expected = f"{fewest}" if fewest == most else f"{fewest} to {most:,}"
        problems.append(f"{split}: {len(wrong):,} classes do not have {expected} images ({first_named(wrong)})")
    return problems
