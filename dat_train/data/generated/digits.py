"""scikit-learn's handwritten digits, written as an image folder."""

from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from dat_train.atomic import new_folder
from dat_train.data.randomness import held_out_by_order
from dat_train.errors import UserError
from dat_train.home_folder import expand_home

SPLIT = "split.txt"  # next to train/ and val/: the settings of the split


def write_digits(root: str | Path, *, val_fraction: float, split_seed: int) -> Path:
    """Write the 1,797 digits (8 x 8 pixels, 16 gray levels) as PNG files below `root`/train and `root`/val, once.

    The split is stratified and seeded. The folder is written under a temporary name and renamed, so that it is
    complete whenever it exists, also with several writers.

    Returns:
        the folder.

    Raises:
        UserError: the folder contains another split or something else, or cannot be written.

    Source: UCI ML hand-written digits (Alpaydin and Kaynak, 1998), in `sklearn.datasets.load_digits`.
    """
    root = expand_home(root)
    wanted = f"val_fraction={val_fraction} split_seed={split_seed}"
    try:
        if not _written(root):
            with new_folder(root, partial(_written, root)) as folder:
                _write(folder, val_fraction, split_seed)
                (folder / SPLIT).write_text(f"{wanted}\n", encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"the digits cannot be written to data.root={root}: {error.strerror}; name a folder that does not exist yet"
        ) from error
    split_of = root / SPLIT
    if split_of.exists() and (found := split_of.read_text(encoding="utf-8").strip()) != wanted:
        raise UserError(f"data.root={root} has the digits split by {found}, not {wanted}; name another folder")
    return root


def _written(root: Path) -> bool:
    return (root / "train").is_dir() and (root / "val").is_dir()


def _write(folder: Path, val_fraction: float, split_seed: int) -> None:
    from sklearn.datasets import load_digits

    digits = load_digits()
    of_class = [[f"{label}/{i:04d}.png" for i in np.flatnonzero(digits.target == label)] for label in range(10)]
    val = {
        name
        for label, names in enumerate(of_class)
        for name in held_out_by_order(names, label, val_fraction, split_seed)
    }
    if not val:
        raise UserError(f"data.val_fraction={val_fraction} holds out none of the digits; raise it")
    for name in (name for names in of_class for name in names):
        path = folder / ("val" if name in val else "train") / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = digits.images[int(path.stem)] * (255 / 16)
        Image.fromarray(pixels.round().astype("uint8")).save(path)
