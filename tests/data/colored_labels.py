"""Images whose labels are their colors: a channel is bright where the image has its label."""

from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("red light", "green", "blue")


def write_colored_labels(root: Path, images: int = 48) -> Path:
    """Write images and a table with the columns path, labels and split; every fourth image is for validation."""
    root.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    lines = ["path,labels,split"]
    for index in range(images):
        has = random.random(3) < 0.5 if index > 1 else np.array([True, True, index == 0])
        pixels = random.integers(0, 60, (32, 32, 3)) + has * 190
        Image.fromarray(pixels.astype(np.uint8)).save(root / f"{index:03}.png")
        labels = ";".join(name for name, own in zip(CLASSES, has, strict=True) if own)
        lines.append(f"{index:03}.png,{labels},{'train' if index % 4 else 'val'}")
    table = root / "labels.csv"
    table.write_text("\n".join(lines) + "\n")
    return table
