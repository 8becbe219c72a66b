"""scikit-learn's handwritten digits as an image folder: real images without a download."""

import os
import shutil
import tempfile
from pathlib import Path

from PIL import Image

from dat_train.data.folders import split
from dat_train.errors import UserError

SPLIT = "split.txt"  # beside train/ and val/: how these were split


def write_digits(root: str | Path, *, val_fraction: float, split_seed: int) -> Path:
    """Write the 1,797 digits (8 x 8 pixels, 16 grey levels) as PNG files below `root`/train and `root`/val, once.

    The split is stratified and seeded. The folder appears whole or not at all, whoever else writes it.

    Raises:
        UserError: the folder holds another split or something else, or cannot be written.

    Source: UCI ML hand-written digits (Alpaydin and Kaynak, 1998), in `sklearn.datasets.load_digits`.
    """
    root = Path(root).expanduser()
    wanted = f"val_fraction={val_fraction} split_seed={split_seed}"
    try:
        if not _written(root):
            _write(root, val_fraction, split_seed, wanted)
    except OSError as error:
        raise UserError(
            f"the digits cannot be written to data.root={root}: {error.strerror}; name a folder that is not there yet"
        ) from error
    split_of = root / SPLIT
    if split_of.exists() and (found := split_of.read_text().strip()) != wanted:
        raise UserError(f"data.root={root} has the digits split by {found}, not {wanted}; name another folder")
    return root


def _written(root: Path) -> bool:
    return (root / "train").is_dir() and (root / "val").is_dir()


def _write(root: Path, val_fraction: float, split_seed: int, note: str) -> None:
    from sklearn.datasets import load_digits

    digits = load_digits()
    samples = [(f"{label}/{i:04d}.png", int(label)) for i, label in enumerate(digits.target)]
    parts = dict(zip(("train", "val"), split(samples, 10, val_fraction, split_seed), strict=True))
    root.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(dir=root.parent, prefix=f".{root.name}-"))
    try:
        for part, chosen in parts.items():
            for name, _ in chosen:
                path = beside / part / name
                path.parent.mkdir(parents=True, exist_ok=True)
                pixels = digits.images[int(path.stem)] * (255 / 16)
                Image.fromarray(pixels.round().astype("uint8")).save(path)
        (beside / SPLIT).write_text(f"{note}\n")
        beside.chmod(0o755)
        os.rename(beside, root)  # noqa: PTH104  replaces an empty folder, refuses a full one
    except OSError:
        if not _written(root):  # else another process was faster
            raise
    finally:
        shutil.rmtree(beside, ignore_errors=True)
