"""Scenes of real handwritten digits with exact masks and boxes: dense prediction without a download."""

from pathlib import Path

import numpy as np
from PIL import Image

from dat_train.data.generated.scene_folder import Scenes, write_scene_folder
from dat_train.data.randomness import keyed_seed

CLASSES = ("background", *"0123456789")
SIDES = ((96, 128), (128, 96))  # (height, width): scenes of both orientations
DIGITS = 1797  # in scikit-learn's set; the last fifth appears only in validation scenes


def write_digit_scenes(root: str | Path, *, train: int = 800, val: int = 100, seed: int = 0) -> Path:
    """Write scenes below `root`, once; see `write_scene_folder`.

    Every scene shows several digits of different size and color on a darker background. A scene is a function of its
    number and `seed`. Validation scenes consist of digits that no training scene has.

    Args:
        root: folder to write; it is complete or missing at any time.
        train, val: number of scenes.
        seed: key of all random draws.

    Raises:
        UserError: the folder contains other scenes or something else, or cannot be written.

    Source: UCI ML hand-written digits (Alpaydin and Kaynak, 1998), in `sklearn.datasets.load_digits`.
    """

    def scenes() -> dict[str, Scenes]:
        from sklearn.datasets import load_digits

        digits = load_digits()

        def of_part(part: str, number: int) -> Scenes:
            return (make_scene(part, i, seed, digits.images, digits.target) for i in range(number))

        return {"train": of_part("train", train), "val": of_part("val", val)}

    # "different pictures" tells these scenes from those of older versions, which have the same pictures in both parts
    return write_scene_folder(root, CLASSES, scenes, f"train={train} val={val} seed={seed}, different pictures")


def make_scene(part: str, number: int, seed: int, images: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, list]:
    """Draw one scene.

    Args:
        part: "train" or "val".
        number: of the scene.
        seed: key of the random draws.
        images: all digits (1797, 8, 8), 0 to 16; labels (1797,).

    Returns:
        Image (H, W, 3) uint8, and per object (class number, visible mask (H, W) bool).
    """
    random = np.random.default_rng(keyed_seed("digit scene", seed, part, number))
    height, width = SIDES[random.integers(len(SIDES))]
    picture = _background(random, height, width)
    first, last = (0, DIGITS * 4 // 5) if part == "train" else (DIGITS * 4 // 5, DIGITS)
    objects: list[tuple[int, np.ndarray]] = []
    taken = np.zeros((height, width), bool)
    for _ in range(random.integers(4, 13)):
        chosen = int(random.integers(first, last))
        side = int(random.integers(28, 45))
        top, left = int(random.integers(0, height - side + 1)), int(random.integers(0, width - side + 1))
        digit = Image.fromarray((images[chosen] * (255 / 16)).astype(np.uint8)).resize((side, side), Image.BICUBIC)
        ink = np.zeros((height, width), np.float32)
        ink[top : top + side, left : left + side] = np.asarray(digit, np.float32) / 255
        mask = ink > 0.5
        if (taken & mask).any() or not mask.any():
            continue  # objects do not overlap, so that every mask is the whole digit
        color = random.uniform(150, 255, 3).astype(np.float32)  # bright on a dark background
        alpha = np.clip(ink * 2 - 0.5, 0, 1)[..., None]
        picture = picture * (1 - alpha) + color * alpha
        taken |= ink > 0.2
        objects.append((int(labels[chosen]) + 1, mask))
    picture += random.normal(0, 6, picture.shape)
    return np.clip(picture, 0, 255).astype(np.uint8), objects


def _background(random: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Smooth dark colored texture, (height, width, 3) float32."""
    coarse = random.uniform(0, 120, (4, 4, 3)) * 0.5 + random.uniform(0, 120, 3) * 0.5
    picture = Image.fromarray(coarse.astype(np.uint8)).resize((width, height), Image.BICUBIC)
    return np.asarray(picture, np.float32)
