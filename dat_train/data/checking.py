"""Check of all images of a data set: each is read and decoded once, in parallel."""

import hashlib
import multiprocessing
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from dat_train.data.class_names import IMAGENET_CLASSES
from dat_train.data.dataset import ImageDataset
from dat_train.data.images import UnreadableImage, read_rgb

CHUNK = 16  # images given to a process at a time
IMAGENET_IMAGES = {"train": 1_281_167, "val": 50_000}
IMAGENET_PER_CLASS = {"train": (732, 1300), "val": (50, 50)}

_dataset: ImageDataset | None = None  # of a worker process


class CheckedImage(NamedTuple):
    """Result for one image: its size in pixels and a hash of its file, or the reason why it cannot be read."""

    index: int
    size: tuple[int, int] = (0, 0)
    digest: bytes = b""
    reason: str | None = None


def check_images(dataset: ImageDataset, workers: int) -> Iterator[CheckedImage]:
    """Read and decode every image of `dataset`; yield the results in order.

    Args:
        workers: processes; 0: in this process.
    """
    if workers == 0:
        yield from (check_image(dataset, index) for index in range(len(dataset)))
        return
    with multiprocessing.Pool(workers, _start_worker, (dataset,)) as pool:
        yield from pool.imap(_check, range(len(dataset)), chunksize=CHUNK)


def check_image(dataset: ImageDataset, index: int) -> CheckedImage:
    """Read and decode the image at `index`."""
    name = dataset.samples[index][0]
    try:
        content = dataset.encoded(index)
        if isinstance(content, str):
            if not stat.S_ISREG(os.stat(content).st_mode):  # noqa: PTH116  reading a FIFO could wait forever
                return CheckedImage(index, reason="not a regular file")
            content = Path(content).read_bytes()
        image = read_rgb(content, name)
    except UnreadableImage as error:
        return CheckedImage(index, reason=str(error).removeprefix(f"{error.path}: "))
    except Exception as error:  # of the disk or the archive
        return CheckedImage(index, reason=f"{type(error).__name__}: {error}")
    return CheckedImage(index, image.size, hashlib.blake2b(content, digest_size=16).digest())


def _start_worker(dataset: ImageDataset) -> None:
    global _dataset
    _dataset = dataset


def _check(index: int) -> CheckedImage:
    return check_image(_dataset, index)


def imagenet_problems(split: str, counts: list[int]) -> list[str]:
    """Faults of a split of ImageNet-1K, one line each.

    Args:
        split: "train" or "val".
        counts: images of each class.
    """
    problems = []
    if len(counts) != IMAGENET_CLASSES:
        problems.append(f"{split}: {len(counts):,} classes, a whole copy has {IMAGENET_CLASSES:,}")
    if sum(counts) != IMAGENET_IMAGES[split]:
        problems.append(f"{split}: {sum(counts):,} images, a whole copy has {IMAGENET_IMAGES[split]:,}")
    fewest, most = IMAGENET_PER_CLASS[split]
    wrong = [count for count in counts if not fewest <= count <= most]
    if wrong:
        problems.append(
            f"{split}: {len(wrong):,} classes have {min(wrong):,} to {max(wrong):,} images, a whole copy has {fewest} "
            f"to {most} in each class"
        )
    return problems
