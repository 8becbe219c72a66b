"""Test sets for ImageNet-1K models: ImageNet-V2, -A, -R, -Sketch and ReaL.

Source: the lists of classes and the reassessed labels in timm (timm/data/_info).
"""

import json
import re
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dat_train.data.dataset import ImageDataset
from dat_train.data.reading.image_files import image_paths, subfolders
from dat_train.data.sample_list import SampleList
from dat_train.data.storages.catalog import Catalog
from dat_train.data.storages.class_names import match_classes
from dat_train.data.storages.folders import existing_folder, hint
from dat_train.data.storages.split_names import find_split
from dat_train.errors import UserError

VALIDATION_IMAGE = re.compile(r"ILSVRC2012_val_(\d{8})\.")


def open_test_set(kind: str, root: str | Path, classes: Sequence[str] | None = None) -> ImageDataset:
    """Return one of TEST_SETS, in folders as published by its authors.

    imagenet_v2 (Recht et al., 2019): folders 0 to 999. imagenet_a, imagenet_r (Hendrycks et al., 2021), imagenet_sketch
    (Wang et al., 2019): a folder for each WordNet number; A and R have 200 of the classes each. imagenet_real (Beyer et
    al., 2020): the validation images of ImageNet, in class folders or not, with the labels that annotators agreed on
    afterwards: several, one or none; images with none are left out.

    Args:
        classes: the model's class names by label; None: ImageNet-1K's WordNet numbers.

    Raises:
        UserError: no such folder, folders and files of other names, or a model of other classes.
    """
    root = existing_folder(root)
    test_set = _open_real(root) if kind == "imagenet_real" else _open_folders(kind, root)
    if classes is not None and list(classes) != test_set.classes:
        _relabel(test_set, classes, kind)
    return test_set


def _open_folders(kind: str, root: Path) -> ImageDataset:
    """Open a test set of class folders."""
    names = [str(number) for number in range(1000)] if kind == "imagenet_v2" else synsets("imagenet")
    label = {name: number for number, name in enumerate(names)}
    subset = sorted(label[name] for name in synsets(kind)) if kind in ("imagenet_a", "imagenet_r") else None
    known = set(names) if subset is None else {names[number] for number in subset}
    samples: list[tuple[str, int]] = []
    folders = subfolders(root)
    for name in folders:
        if name not in known:
            raise UserError(
                f"{root} has the folder {name!r}, which is not a class of {kind} (for example {sorted(known)[0]})"
                f"{hint(root)}"
            )
        samples += [(path, label[name]) for path in image_paths(root / name)]
    if not samples:
        raise UserError(f"{root} has no class folders with images{hint(root)}")
    return _test_set(sorted(samples, key=lambda sample: (sample[1], sample[0])), root, subset=subset)


def _test_set(
    samples: Sequence[tuple[str, int]], base: Path, subset: Sequence[int] | None = None, right: Tensor | None = None
) -> ImageDataset:
    """Images with ImageNet-1K's class numbers as labels; `subset` and `right` as in `ImageDataset`."""
    images = ImageDataset(samples, synsets("imagenet"), training=False)
    images.base, images.subset, images.right = str(base), subset, right
    return images


def _relabel(test_set: ImageDataset, classes: Sequence[str], kind: str) -> None:
    """Give `test_set` the labels of `classes`, by name."""
    occur = range(len(test_set.classes)) if test_set.subset is None else test_set.subset
    names = [test_set.classes[label] for label in occur]
    matched = match_classes(Catalog(names, SampleList([("", place) for place in range(len(names))])), classes, kind)
    to_label = np.full(len(test_set.classes) + 1, -1)  # the last one: -1 stays -1
    to_label[list(occur)] = matched.samples.labels
    test_set.samples = test_set.samples.with_labels(to_label[test_set.samples.labels])
    if test_set.right is not None:
        test_set.right = torch.from_numpy(to_label[test_set.right.numpy()])
    if test_set.subset is not None:
        test_set.subset = sorted(to_label[list(test_set.subset)].tolist())
    test_set.classes = list(classes)


def _open_real(root: Path) -> ImageDataset:
    found = find_split(subfolders(root), "val")
    folder = root / found if found else root
    labels = real_labels()
    samples, right = [], []
    for path in image_paths(folder):
        number = VALIDATION_IMAGE.search(path)
        if number is None or not 0 < int(number[1]) <= len(labels):
            raise UserError(
                f"{path} is not an ImageNet validation image: these are named ILSVRC2012_val_00000001.JPEG, ..."
            )
        if agreed := labels[int(number[1]) - 1]:
            samples.append((path, agreed[0]))
            right.append(agreed)
    if not samples:
        raise UserError(f"{folder} has no ImageNet validation images")
    most = max(len(agreed) for agreed in right)
    right = torch.tensor([agreed + [-1] * (most - len(agreed)) for agreed in right])
    return _test_set(samples, folder, right=right)


def synsets(name: str) -> list[str]:
    """WordNet numbers of the classes of "imagenet" (1000, in the order of labels), "imagenet_a" or "imagenet_r"."""
    return _shipped(f"{name}_synsets.txt").split()


def real_labels() -> list[list[int]]:
    """Labels that annotators agreed on, for each of the 50,000 validation images in the order of their names."""
    return json.loads(_shipped("imagenet_real_labels.json"))


def _shipped(name: str) -> str:
    return (files("timm.data") / "_info" / name).read_text(encoding="utf-8")
