"""Real image files and folders for the tests of the data."""

from pathlib import Path

import numpy as np
from PIL import Image


def photo(width: int = 64, height: int = 48) -> Image.Image:
    """A real photograph (scikit-learn's china.jpg), reduced."""
    from sklearn.datasets import load_sample_image

    return Image.fromarray(load_sample_image("china.jpg")).resize((width, height), Image.Resampling.LANCZOS)


def write_images(folder: Path, number: int, suffix: str = ".png") -> list[Path]:
    """`number` small images 0.png, 1.png, ... in `folder`, each of its own gray."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{i}{suffix}" for i in range(number)]
    for i, path in enumerate(paths):
        Image.fromarray(np.full((8, 8, 3), i, np.uint8)).save(path)
    return paths


def write_image(path: Path) -> Path:
    """One photo at `path`, its folders with it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    photo().save(path)
    return path
