"""Folder of scenes with exact masks and boxes, for both dense tasks."""

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from dat_train.atomic import new_folder
from dat_train.errors import UserError
from dat_train.home_folder import expand_home

NOTE = "scenes.txt"  # describes the content of a folder

# image (H, W, 3) uint8, and its objects: class number, from 1, and mask (H, W) bool
Scenes = Iterable[tuple[np.ndarray, list[tuple[int, np.ndarray]]]]


def write_scene_folder(
    root: str | Path, classes: Sequence[str], scenes: Callable[[], dict[str, Scenes]], content: str
) -> Path:
    """Write scenes below `root`, once: images/, masks/, classes.txt, and annotations/ in the COCO format.

    Args:
        root: folder to write; it is complete or missing at any time.
        classes: names by class number; 0 is the background.
        scenes: returns the scenes of "train" and "val"; called only if the folder does not exist yet.
        content: one line that describes the scenes.

    Raises:
        UserError: the folder contains other scenes or something else, or cannot be written.
    """
    root = expand_home(root)
    note = root / NOTE
    try:
        if not note.exists():
            parts = scenes()
            with new_folder(root, note.exists) as folder:
                for part, of_part in parts.items():
                    _write_part(folder, part, of_part, classes)
                (folder / "classes.txt").write_text("\n".join(classes) + "\n", encoding="utf-8")
                (folder / NOTE).write_text(f"{content}\n", encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"scenes cannot be written to data.root={root}: {error.strerror}; name a folder that does not exist"
        ) from error
    if (found := note.read_text(encoding="utf-8").strip()) != content:
        raise UserError(f"data.root={root} has scenes with {found}, not {content}; name another folder")
    return root


def _write_part(folder: Path, part: str, scenes: Scenes, classes: Sequence[str]) -> None:
    """Images, masks and the COCO file of one part."""
    for name in ("images", "masks"):
        (folder / name / part).mkdir(parents=True)
    images, annotations = [], []
    for i, (picture, objects) in enumerate(scenes):
        labels = np.zeros(picture.shape[:2], np.uint8)
        for number, mask in objects:
            labels[mask] = number
            annotations.append(_annotation(len(annotations) + 1, i + 1, number, mask))
        Image.fromarray(picture).save(folder / "images" / part / f"{i:04d}.png")
        Image.fromarray(labels).save(folder / "masks" / part / f"{i:04d}.png")
        height, width = labels.shape
        images.append({"id": i + 1, "file_name": f"{i:04d}.png", "height": height, "width": width})
    categories = [{"id": k, "name": name} for k, name in enumerate(classes) if k > 0]
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
