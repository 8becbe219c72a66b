"""Access to encoded images in any storage format, and sample names that do not depend on the format."""

import re
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from dat_train.data.images import printable
from dat_train.data.sample_list import SampleList

WORDNET_NUMBER = re.compile(r"n\d{8}")  # a class folder of ImageNet


class ImageSource(Protocol):
    """Random access to encoded images. The path of a sample is then used only in messages."""

    def open(self, index: int) -> str | bytes:
        """Return the path of the image file at `index`, or its content."""

    def select(self, indices: np.ndarray) -> "ImageSource":
        """Return the source of the images at `indices`, in this order."""

    def storage_order(self) -> np.ndarray:
        """(number of images,) indices of the images in the order in which they are stored."""


@runtime_checkable
class ReadsAhead(Protocol):
    """Image source that can ask the system to read several images in advance."""

    def read_ahead(self, indices: np.ndarray) -> None:
        """Start reading the images at `indices` into the system's cache."""


class Paths:
    """Image files whose paths differ from their names in the catalog."""

    def __init__(self, paths: Sequence[str]) -> None:
        self.paths = SampleList((path, 0) for path in paths)

    def open(self, index: int) -> str:
        """Return the path at `index`."""
        return self.paths[index][0]

    def select(self, indices: np.ndarray) -> "Paths":
        """Return the source of the images at `indices`."""
        return Paths([self.paths[int(index)][0] for index in indices])

    def storage_order(self) -> np.ndarray:
        """Indices by path."""
        return np.array(sorted(range(len(self.paths)), key=lambda index: self.paths[index][0]), np.int64)


def name_in_class(name: str, class_name: str) -> str:
    """File name relative to its class folder: "cat/deep/1.png" and "train/cat/deep/1.png" of "cat" are "deep/1.png"."""
    folder, _, rest = name.partition("/")
    while rest:
        if printable(folder) == class_name:
            return rest
        folder, _, rest = rest.partition("/")
    return name


def sorting_name(name: str, class_name: str) -> str:
    """Name by which the images of a class are sorted: `name_in_class` without an appended WordNet number.

    Hugging Face's copy of ImageNet appends it: n01440764_10026_n01440764.JPEG sorts as n01440764_10026.JPEG.
    """
    name = name_in_class(name, class_name)
    if not WORDNET_NUMBER.fullmatch(class_name):
        return name
    stem, dot, suffix = name.rpartition(".")
    return f"{stem.removesuffix(f'_{class_name}')}{dot}{suffix}"


def sample_key(path: str, base: str, class_name: str) -> str:
    """Name of a sample that is the same in every storage format.

    This is the file name relative to the class folder, without its extension, and without the class name that
    Hugging Face's copy of ImageNet appends to it (n01440764_10026_n01440764.JPEG).
    """
    name = name_in_class(path[len(base) + 1 :] if base and path.startswith(f"{base}/") else path, class_name)
    folder, slash, file = name.rpartition("/")
    stem = file.rpartition(".")[0] or file
    key = printable(f"{folder}{slash}{stem.removesuffix(f'_{class_name}')}")
    # all that Python does not print is escaped here: fingerprints and held-out images of existing runs depend on it
    return key if key.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in key)
