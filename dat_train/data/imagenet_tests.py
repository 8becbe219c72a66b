"""Test sets for ImageNet-1K models beside its validation set: their images, classes and labels.

The lists of classes and the reassessed labels are those timm ships.
"""

import json
import re
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

import torch
from torch import Tensor

from dat_train.data.dataset import ImageDataset
from dat_train.data.folders import VALIDATION_NAMES, class_folders, existing, image_paths
from dat_train.errors import UserError

TEST_SETS = ("imagenet_v2", "imagenet_a", "imagenet_r", "imagenet_sketch", "imagenet_real")
VALIDATION_IMAGE = re.compile(r"ILSVRC2012_val_(\d{8})\.")


class TestImages(ImageDataset):
    """Images to test on; their labels are ImageNet-1K's class numbers.

    Args:
        subset: the classes that occur, where these are not all: a model chooses among them alone.
        right: (images, most) class numbers that are right for each image, -1 filling up; None: the label alone.
    """

    __test__ = False  # for pytest, which takes it for a test by its name

    def __init__(
        self, samples: Sequence[tuple[str, int]], subset: Sequence[int] | None = None, right: Tensor | None = None
    ) -> None:
        super().__init__(samples, synsets("imagenet"), stand_in=False)
        self.subset = subset
        self.right = right


def open_test_set(kind: str, root: str | Path) -> TestImages:
    """One of TEST_SETS, as its authors pack it.

    imagenet_v2 (Recht et al., 2019): folders 0 to 999. imagenet_a, imagenet_r (Hendrycks et al., 2021), imagenet_sketch
    (Wang et al., 2019): a folder for each WordNet number; A and R have 200 of the classes each. imagenet_real (Beyer et
    al., 2020): the validation images of ImageNet, sorted into classes or not, with the labels that people agreed on
    afterwards: several, one or none; images with none are left out.

    Raises:
        UserError: no such folder, or folders and files of other names.
    """
    root = existing(root)
    if kind == "imagenet_real":
        return _open_real(root)
    names = [str(number) for number in range(1000)] if kind == "imagenet_v2" else synsets("imagenet")
    label = {name: number for number, name in enumerate(names)}
    subset = sorted(label[name] for name in synsets(kind)) if kind in ("imagenet_a", "imagenet_r") else None
    known = set(names) if subset is None else {names[number] for number in subset}
    samples: list[tuple[str, int]] = []
    for folder in class_folders(root):
        if folder.name not in known:
            below = "; it is perhaps in a folder below" if len(class_folders(root)) == 1 else ""
            raise UserError(
                f"{root} has the folder {folder.name!r}, which is no class of {kind} (as {sorted(known)[0]}){below}"
            )
        samples += [(path, label[folder.name]) for path in image_paths(folder)]
    if not samples:
        raise UserError(f"{root} has class folders, and no image in them")
    return TestImages(sorted(samples, key=lambda sample: (sample[1], sample[0])), subset)


def _open_real(root: Path) -> TestImages:
    folder = next((root / name for name in VALIDATION_NAMES if (root / name).is_dir()), root)
    labels = real_labels()
    samples, right = [], []
    for path in image_paths(folder):
        number = VALIDATION_IMAGE.search(path)
        if number is None or not 0 < int(number[1]) <= len(labels):
            raise UserError(
                f"{path} is no ImageNet validation image: these are named ILSVRC2012_val_00000001.JPEG, ..."
            )
        if agreed := labels[int(number[1]) - 1]:
            samples.append((path, agreed[0]))
            right.append(agreed)
    if not samples:
        raise UserError(f"{folder} has no ImageNet validation images")
    most = max(len(agreed) for agreed in right)
    return TestImages(samples, right=torch.tensor([agreed + [-1] * (most - len(agreed)) for agreed in right]))


def synsets(name: str) -> list[str]:
    """WordNet numbers of the classes of imagenet (all 1000, in the order of class numbers), imagenet_a or _r."""
    return _shipped(f"{name}_synsets.txt").split()


def real_labels() -> list[list[int]]:
    """For each of the 50,000 validation images, in the order of their names, the labels people agreed on."""
    return json.loads(_shipped("imagenet_real_labels.json"))


def _shipped(name: str) -> str:
    return (files("timm.data") / "_info" / name).read_text()
