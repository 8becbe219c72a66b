"""Labeled images of one split in any storage format: class names, paths, labels, and access to the content."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from dat_train.data.dataset import ImageDataset
from dat_train.data.reading.image_source import ImageSource, sorting_name
from dat_train.data.sample_list import SampleList


@dataclass(frozen=True)
class Catalog:
    """Labeled images of one split, sorted by class name and then by file name.

    Attributes:
        classes: class names, sorted as text; a label is a position in this list.
        samples: (path, label) pairs.
        base: common beginning of all paths, not part of the data's fingerprint.
        source: encoded images by index; None: the paths are files.
        notes: omitted files and other information for the user, one line each.
        targets: (images, classes) bool, all labels of an image, of multi-label data.
    """

    classes: list[str]
    samples: SampleList
    base: str = ""
    source: ImageSource | None = None
    notes: tuple[str, ...] = ()
    targets: np.ndarray | None = None

    def select(self, indices: np.ndarray) -> "Catalog":
        """Return the images at `indices`, in this order."""
        return replace(
            self,
            samples=SampleList(self.samples[int(index)] for index in indices),
            source=self.source and self.source.select(indices),
            targets=None if self.targets is None else self.targets[indices],
        )

    def with_classes(self, classes: Sequence[str], positions: Sequence[int]) -> "Catalog":
        """Return the same images with the labels of another list of classes.

        Args:
            positions: position in `classes` of each class of this catalog.
        """
        targets = self.targets
        if targets is not None:
            targets = np.zeros((len(self.samples), len(classes)), bool)
            targets[:, list(positions)] = self.targets
        labels = np.asarray(positions, np.int64)[self.samples.labels] if len(self.samples) else self.samples.labels
        return replace(self, classes=list(classes), samples=self.samples.with_labels(labels), targets=targets)

    def dataset(self, *, training: bool) -> ImageDataset:
        """Return the images as a dataset without a transform."""
        dataset = ImageDataset(self.samples, self.classes, training=training)
        dataset.base, dataset.source, dataset.notes, dataset.targets = self.base, self.source, self.notes, self.targets
        return dataset


def sorted_catalog(
    names: Sequence[str],
    class_names: Sequence[str],
    *,
    base: str,
    source: ImageSource | None = None,
    notes: Iterable[str] = (),
) -> Catalog:
    """Return the catalog of images in any order, sorted by class name and then by file name.

    Args:
        names: of the images, relative to `base`, optionally with the class folder in front.
        class_names: of each image.
    """
    classes = sorted(set(class_names))
    label = {name: number for number, name in enumerate(classes)}
    inside = [sorting_name(name, of_class) for name, of_class in zip(names, class_names, strict=True)]
    order = sorted(range(len(names)), key=lambda index: (class_names[index], inside[index]))
    samples = SampleList((f"{base}/{names[index]}", label[class_names[index]]) for index in order)
    source = source and source.select(np.array(order, np.int64))
    return Catalog(classes, samples, base, source, tuple(notes))
