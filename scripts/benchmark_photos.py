#!/usr/bin/env python
"""Write JPEG files to measure the input pipeline with, from photographs that come with scikit-learn and scikit-image.

python scripts/benchmark_photos.py FOLDER [--size 500 375] [--bytes 90000] [--number 240]

The photographs are cropped, resized and encoded with the quality that gives about the requested number of bytes. With
scikit-image installed, there are nine photographs instead of two. Then: dat-bench data data=folder data.root=FOLDER
"""

import argparse
import importlib.util
import io
import random
from pathlib import Path

from PIL import Image
from sklearn.datasets import load_sample_images

NAMES = ("astronaut", "chelsea", "coffee", "motorcycle_left", "motorcycle_right", "rocket", "retina")
CLASSES = 4


def originals() -> list[Image.Image]:
    """Photographs of both packages, RGB."""
    found = [Image.fromarray(pixels) for pixels in load_sample_images().images]
    package = importlib.util.find_spec("skimage")
    if package:
        for path in sorted((Path(package.origin).parent / "data").glob("*")):
            if path.stem in NAMES:
                found.append(Image.open(path).convert("RGB"))
    return found


def encoded(image: Image.Image, size: int) -> bytes:
    """JPEG of the highest quality, from 30 to 98, that takes at most `size` bytes."""
    low, high = 30, 98
    while low < high:
        quality = (low + high + 1) // 2
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=quality)
        low, high = (quality, high) if buffer.tell() <= size else (low, quality - 1)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=low)
    return buffer.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size", type=int, nargs=2, default=(500, 375), help="width and height, pixels")
    parser.add_argument("--bytes", type=int, default=90_000, help="largest size of a file")
    parser.add_argument("--number", type=int, default=240, help="of files")
    options = parser.parse_args()
    photos, draw = originals(), random.Random(0)
    width, height = options.size
    for number in range(options.number):
        photo = photos[number % len(photos)]
        share = draw.uniform(0.6, 1.0)
        w = share * min(photo.width, photo.height * width / height)
        h = w * height / width
        left, top = draw.uniform(0, photo.width - w), draw.uniform(0, photo.height - h)
        image = photo.resize((width, height), Image.Resampling.BICUBIC, box=(left, top, left + w, top + h))
        folder = options.folder / f"class {number % CLASSES}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}.jpg").write_bytes(encoded(image, options.bytes))


if __name__ == "__main__":
    main()
