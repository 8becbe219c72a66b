"""Labels of ImageNet's validation images: Kaggle's table, or the development kit of the challenge."""

import csv
import io
import re
import tarfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from dat_train.errors import UserError

SOLUTION = "LOC_val_solution.csv"
DEVKIT = "ILSVRC2012_devkit_t12"
LEVELS = 5  # folders above the images that are searched for labels
SYNSET = re.compile(r"n\d{8}")
NAME = "ILSVRC2012_val_{:08d}"


def validation_classes(names: Sequence[str], folder: Path, images: Path) -> list[str]:
    """Return the WordNet number of each of ImageNet's validation images, by its file name.

    LOC_val_solution.csv, ILSVRC2012_devkit_t12.tar.gz or its unpacked folder is searched in `folder` and its parents.

    Args:
        images: folder or archive of the images, for messages.

    Raises:
        UserError: no labels, a file of another content, or an image without a label.
    """
    places = [folder, *folder.resolve().parents][:LEVELS]
    found = (place / name for place in places for name in (SOLUTION, f"{DEVKIT}.tar.gz", DEVKIT))
    path = next((path for path in found if path.exists()), None)
    if path is None:
        raise UserError(
            f"{images} has no class folders and no labels: put {SOLUTION} (Kaggle) or {DEVKIT}.tar.gz next to it"
        )
    labels = _from_solution(path) if path.suffix == ".csv" else _from_devkit(path)
    classes = [labels.get(PurePosixPath(name).stem) for name in names]
    if missing := classes.count(None):
        raise UserError(
            f"{images}: {missing:,} images have no label in {path}; the first is {names[classes.index(None)]}"
        )
    return classes


def _from_solution(path: Path) -> dict[str, str]:
    """Labels in Kaggle's table: ImageId,PredictionString, the latter with boxes, each after its WordNet number."""
    labels = {}
    with path.open(encoding="utf-8-sig", newline="") as file:
        for row in csv.reader(file):
            words = row[1].split() if len(row) > 1 else []
            if words and SYNSET.fullmatch(words[0]):
                labels[row[0].strip()] = words[0]
    if not labels:
        raise UserError(f"{path} has no rows like {NAME.format(1)},n01751748 1 2 3 4")
    return labels


def _from_devkit(path: Path) -> dict[str, str]:
    """Labels in the development kit: numbers in a text file, and their meaning in meta.mat."""
    from scipy.io import loadmat  # of scikit-learn

    names = ("ILSVRC2012_validation_ground_truth.txt", "meta.mat")
    if path.is_dir():
        truth, meta = ((path / "data" / name).read_bytes() for name in names)
    else:
        try:
            with tarfile.open(path) as archive:
                truth, meta = (archive.extractfile(f"{DEVKIT}/data/{name}").read() for name in names)
        except (tarfile.TarError, EOFError, OSError, KeyError) as error:
            raise UserError(f"{path} is not the whole development kit ({error}); copy it again") from error
    synsets = loadmat(io.BytesIO(meta), squeeze_me=True)["synsets"]
    synset = {int(item["ILSVRC2012_ID"]): str(item["WNID"]) for item in synsets}
    numbers = [int(line) for line in truth.split()]
    return {NAME.format(image): synset[number] for image, number in enumerate(numbers, start=1)}
