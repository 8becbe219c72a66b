"""scikit-learn's handwritten digits as an image folder: real images without a download."""

import os
import shutil
import tempfile
from pathlib import Path

from PIL import Image

from dat_train.data.folders import split


def write_digits(root: str | Path, *, val_fraction: float, split_seed: int) -> Path:
    """Write the 1,797 digits (8 x 8 pixels, 16 grey levels) as PNG files below `root`/train and `root`/val, once.

    The split is stratified and seeded. The folder appears whole or not at all, whoever else writes it.

    Source: UCI ML hand-written digits (Alpaydin and Kaynak, 1998), in `sklearn.datasets.load_digits`.
    """
    root = Path(root)
    if (root / "train").is_dir() and (root / "val").is_dir():
        return root
    from sklearn.datasets import load_digits

    digits = load_digits()
    samples = [(f"{label}/{i:04d}.png", int(label)) for i, label in enumerate(digits.target)]
    parts = dict(zip(("train", "val"), split(samples, 10, val_fraction, split_seed), strict=True))
    root.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(dir=root.parent, prefix=f".{root.name}-"))
    for part, chosen in parts.items():
        for name, _ in chosen:
            path = beside / part / name
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = digits.images[int(path.stem)] * (255 / 16)
            Image.fromarray(pixels.round().astype("uint8")).save(path)
    beside.chmod(0o755)
    try:
        os.rename(beside, root)  # noqa: PTH104  replaces an empty folder, refuses a full one
    except OSError:
        shutil.rmtree(beside)
        if not (root / "train").is_dir():
            raise
    return root
