"""Scenes of real handwritten digits with exact masks and boxes: dense prediction without a download."""

import json
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from dat_train.data.randomness import keyed_seed
from dat_train.errors import UserError
from dat_train.home_folder import expand_home

CLASSES = ("background", *"0123456789")
SIDES = ((96, 128), (128, 96))  # (height, width): scenes of both orientations
DIGITS = 1797  # in scikit-learn's set; the last fifth appears only in validation scenes
NOTE = "scenes.txt"


def write_digit_scenes(root: str | Path, *, train: int = 800, val: int = 100, seed: int = 0) -> Path:
    """Write scenes below `root`, once: images/, masks/, classes.txt, and annotations/ in the COCO format.

    Every scene shows several digits of different size and color on a darker background. A scene follows from
    its number and `seed` alone; validation scenes are made of digits that training scenes do not have.

    Args:
        root: folder; appears whole or not at all.
        train, val: number of scenes.
        seed: key of all random draws.

    Raises:
        UserError: the folder holds other scenes or something else, or cannot be written.

    Source: UCI ML hand-written digits (Alpaydin and Kaynak, 1998), in `sklearn.datasets.load_digits`.
    """
    root = expand_home(root)
    wanted = f"train={train} val={val} seed={seed}"
    note = root / NOTE
    try:
        if not note.exists():
            _write_folder(root, {"train": train, "val": val}, seed, wanted)
    except OSError as error:
        raise UserError(
            f"digit scenes cannot be written to data.root={root}: {error.strerror}; name a folder that does not exist"
        ) from error
    if (found := note.read_text(encoding="utf-8").strip()) != wanted:
        raise UserError(f"data.root={root} has scenes with {found}, not {wanted}; name another folder")
    return root


def make_scene(part: str, number: int, seed: int, images: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, list]:
    """One scene.

    Args:
        part: "train" or "val".
        number: of the scene.
        seed: key of the random draws.
        images: all digits (1797, 8, 8), 0 to 16; labels (1797,).

    Returns:
        Image (H, W, 3) uint8, and per object (digit, visible mask (H, W) bool).
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
        objects.append((int(labels[chosen]), mask))
    picture += random.normal(0, 6, picture.shape)
    return np.clip(picture, 0, 255).astype(np.uint8), objects


def _background(random: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Smooth dark colored texture, (height, width, 3) float32."""
    coarse = random.uniform(0, 120, (4, 4, 3)) * 0.5 + random.uniform(0, 120, 3) * 0.5
    picture = Image.fromarray(coarse.astype(np.uint8)).resize((width, height), Image.BICUBIC)
    return np.asarray(picture, np.float32)


def _write_folder(root: Path, numbers: dict[str, int], seed: int, note: str) -> None:
    from sklearn.datasets import load_digits

    digits = load_digits()
    root.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=root.parent, prefix=f".{root.name}-"))
    try:
        for part, number in numbers.items():
            _write_part(temporary, part, number, seed, (digits.images, digits.target))
        (temporary / "classes.txt").write_text("\n".join(CLASSES) + "\n", encoding="utf-8")
        (temporary / NOTE).write_text(f"{note}\n", encoding="utf-8")
        temporary.chmod(0o755)
        os.rename(temporary, root)  # noqa: PTH104  replaces an empty folder, refuses a full one
    except OSError:
        if not (root / NOTE).exists():  # otherwise another process was faster
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write_part(folder: Path, part: str, number: int, seed: int, digits: tuple[np.ndarray, np.ndarray]) -> None:
    """Images, masks and the COCO file of one part."""
    for name in ("images", "masks"):
        (folder / name / part).mkdir(parents=True)
    images, annotations = [], []
    for i in range(number):
        picture, objects = make_scene(part, i, seed, *digits)
        labels = np.zeros(picture.shape[:2], np.uint8)
        for digit, mask in objects:
            labels[mask] = digit + 1
            annotations.append(_annotation(len(annotations) + 1, i + 1, digit + 1, mask))
        Image.fromarray(picture).save(folder / "images" / part / f"{i:04d}.png")
        Image.fromarray(labels).save(folder / "masks" / part / f"{i:04d}.png")
        height, width = labels.shape
        images.append({"id": i + 1, "file_name": f"{i:04d}.png", "height": height, "width": width})
    categories = [{"id": k, "name": name} for k, name in enumerate(CLASSES) if k > 0]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "annotations").mkdir(exist_ok=True)
    (folder / "annotations" / f"instances_{part}.json").write_text(json.dumps(content), encoding="utf-8")


def _annotation(number: int, image: int, category: int, mask: np.ndarray) -> dict:
    """COCO annotation of one object: tight box, and the mask as uncompressed run lengths."""
    rows, columns = mask.any(1).nonzero()[0], mask.any(0).nonzero()[0]
    x, y = int(columns[0]), int(rows[0])
    flat = mask.flatten(order="F")
    changes = np.flatnonzero(np.diff(flat)) + 1
    bounds = np.concatenate([[0], changes, [flat.size]])
    counts = ([0] if flat[0] else []) + np.diff(bounds).tolist()
    return {
        "id": number,
        "image_id": image,
        "category_id": category,
        "bbox": [x, y, int(columns[-1]) - x + 1, int(rows[-1]) - y + 1],
        "area": int(mask.sum()),
        "iscrowd": 0,
        "segmentation": {"size": list(mask.shape), "counts": counts},
    }
