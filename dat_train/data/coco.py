"""Detection sets in the COCO format: COCO itself, own images with such a file, digit scenes."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from dat_train.choices import DETECTION_KINDS
from dat_train.data.digit_scenes import write_digit_scenes
from dat_train.data.folders import existing_folder
from dat_train.data.images import printable
from dat_train.data.nuclei import write_nuclei
from dat_train.errors import UserError, require_one_of

RECORDS = {  # lists of an annotation file, and the keys of their records that are read
    "images": ("id", "file_name", "height", "width"),
    "annotations": ("image_id", "category_id", "bbox"),
    "categories": ("id", "name"),
}
LEAST_SIDE = 32  # pixels of an image that is trained on
COCO_CLASSES = 80


@dataclass
class Objects:
    """Objects of one image.

    Args:
        boxes: (N, 4) float32 corners x1, y1, x2, y2 in pixels.
        labels: (N,) int64, 0-based.
        segmentations: of each object, polygons or run lengths as in the file; None without.
    """

    boxes: np.ndarray
    labels: np.ndarray
    segmentations: list[Any]

    def masks(self, height: int, width: int) -> np.ndarray:
        """Binary masks (N, height, width) uint8.

        Raises:
            UserError: an object without segmentation.
        """
        masks = np.zeros((len(self.labels), height, width), np.uint8)
        for mask, segmentation in zip(masks, self.segmentations, strict=True):
            mask[:] = decode_segmentation(segmentation, height, width)
        return masks


@dataclass
class CocoFile:
    """One annotation file: images, objects that can be trained on, class names.

    Args:
        path: the file.
        images: records of the file (id, file_name, height, width), ascending ids.
        classes: names in ascending order of the category ids.
        category_ids: id of each class in the file.
        objects: annotations of each image id, crowds included.
    """

    path: Path
    images: list[dict]
    classes: list[str]
    category_ids: list[int]
    objects: dict[int, list[dict]] = field(default_factory=dict)

    def usable(self, image: dict) -> Objects:
        """Objects of an image without crowds and degenerate boxes; boxes as corners."""
        label = {number: k for k, number in enumerate(self.category_ids)}
        boxes, labels, segmentations = [], [], []
        for annotation in self.objects.get(image["id"], []):
            x, y, width, height = annotation["bbox"]
            overlap_x = max(0, min(x + width, image["width"]) - max(x, 0))
            overlap_y = max(0, min(y + height, image["height"]) - max(y, 0))
            if annotation.get("iscrowd") or annotation.get("area", width * height) <= 0:
                continue
            if width < 1 or height < 1 or overlap_x * overlap_y == 0:
                continue
            boxes.append([x, y, x + width, y + height])
            labels.append(label[annotation["category_id"]])
            segmentations.append(annotation.get("segmentation"))
        return Objects(np.array(boxes, np.float32).reshape(-1, 4), np.array(labels, np.int64), segmentations)

    def truth(self, image: dict) -> list[dict]:
        """All annotations of an image for evaluation, crowds included; category ids are class numbers plus one."""
        number = {identity: k + 1 for k, identity in enumerate(self.category_ids)}
        return [
            {
                "bbox": annotation["bbox"],
                "area": annotation.get("area", annotation["bbox"][2] * annotation["bbox"][3]),
                "iscrowd": annotation.get("iscrowd", 0),
                "category_id": number[annotation["category_id"]],
            }
            | ({"segmentation": annotation["segmentation"]} if annotation.get("segmentation") else {})
            for annotation in self.objects.get(image["id"], [])
        ]


def open_coco(kind: str, root: str | None, split_seed: int = 0) -> tuple[tuple[Path, CocoFile], tuple[Path, CocoFile]]:
    """(image folder, annotations) for training and for validation.

    Args:
        kind: "coco": annotations/instances_{train,val}2017.json, train2017/, val2017/; "boxes": the same without 2017,
            images in images/train and images/val; "digit_scenes", "nuclei": written there first.
        root: folder.
        split_seed: of kind "nuclei".

    Raises:
        UserError: unknown kind, or a folder or file that is not as described.
    """
    require_one_of("task=detection needs other data: data.kind", kind, DETECTION_KINDS)
    if root is None:
        raise UserError(f"data.root is not set: data={kind} needs data.root=PATH")
    if kind == "digit_scenes":
        write_digit_scenes(root)
    if kind == "nuclei":
        write_nuclei(root, split_seed)
    folder = existing_folder(root)
    parts = []
    for part in ("train", "val"):
        name, images = (f"{part}2017", folder / f"{part}2017") if kind == "coco" else (part, folder / "images" / part)
        path = folder / "annotations" / f"instances_{name}.json"
        if not images.is_dir():
            raise UserError(f"{images} is not there: data={kind} needs {images.relative_to(folder)}/ below {folder}")
        parts.append((images, read_coco(path)))
    train, val = (file for _, file in parts)
    if train.classes != val.classes:
        raise UserError(f"{train.path.name} and {val.path.name} have different categories: they must be the same")
    if kind == "coco" and len(train.classes) != COCO_CLASSES:
        raise UserError(
            f"{train.path} has {len(train.classes)} categories, COCO has {COCO_CLASSES}: with 91, unused numbers were "
            "counted as classes; for other data take data=boxes"
        )
    return parts[0], parts[1]


def read_coco(path: Path) -> CocoFile:
    """The annotation file at `path`.

    Raises:
        UserError: missing, not JSON, not in the COCO format, or with a background category.
    """
    if not path.is_file():
        raise UserError(f"{path} is not there")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}): copy it again") from None
    _check_records(path, content)
    categories = sorted(content["categories"], key=lambda category: category["id"])
    names = [category["name"] for category in categories]
    if any(name.lower() in ("background", "__background__") for name in names):
        raise UserError(f"{path} has a category 'background': leave it out, it is not an object")
    images = sorted(content["images"], key=lambda image: image["id"])
    file = CocoFile(path, images, names, [category["id"] for category in categories])
    known, ids = {image["id"] for image in images}, set(file.category_ids)
    for annotation in content["annotations"]:
        if annotation["image_id"] not in known or annotation["category_id"] not in ids:
            raise UserError(
                f"{path}: annotation {annotation.get('id')} has image_id {annotation['image_id']} and category_id "
                f"{annotation['category_id']}, of which one is not in the file"
            )
        file.objects.setdefault(annotation["image_id"], []).append(annotation)
    return file


def _check_records(path: Path, content: Any) -> None:
    """Raise a UserError unless the lists of the COCO format are there, and their records have what is read of them."""
    for part, keys in RECORDS.items():
        records = content.get(part) if isinstance(content, dict) else None
        if not isinstance(records, list):
            raise UserError(f"{path} has no list {part!r}: it must be an annotation file in the COCO format")
        for number, record in enumerate(records):
            missing = [key for key in keys if not isinstance(record, dict) or record.get(key) is None]
            if missing:
                raise UserError(f"{path}: entry {number} of {part!r} has no {missing[0]!r}; the COCO format needs it")
    wrong = next((a for a in content["annotations"] if len(a["bbox"]) != 4), None)
    if wrong:
        raise UserError(
            f"{path}: annotation {wrong.get('id')} has bbox {wrong['bbox']}: it must be [x, y, width, height]"
        )
    ids = [image["id"] for image in content["images"]]
    if len(set(ids)) < len(ids):
        number = next(number for number in ids if ids.count(number) > 1)
        raise UserError(f"{path} has several images with the id {number}: each needs its own")


def trainable(file: CocoFile) -> list[dict]:
    """Image records with at least one usable object and both sides of at least 32 pixels.

    Raises:
        UserError: there are none.
    """
    records = [
        image
        for image in file.images
        if min(image["height"], image["width"]) >= LEAST_SIDE and len(file.usable(image).labels)
    ]
    if not records:
        raise UserError(
            f"{file.path} has {len(file.images):,} images, none with an object to train on and sides of at least "
            f"{LEAST_SIDE} pixels"
        )
    return records


def decode_segmentation(segmentation: Any, height: int, width: int) -> np.ndarray:
    """Binary mask (height, width) uint8 of polygons, or of run lengths, compressed or not.

    Raises:
        UserError: none of these.
    """
    if isinstance(segmentation, dict) and isinstance(segmentation.get("counts"), list):
        return _from_runs(segmentation["counts"], height, width)
    if not segmentation:
        raise UserError("an object has no segmentation: masks cannot be trained without; set dense.head=retinanet")
    try:
        from faster_coco_eval.core import mask as masks
    except ImportError:
        raise UserError("masks as polygons need faster-coco-eval: pip install dat-train[detection]") from None
    try:
        runs = masks.frPyObjects(segmentation, height, width) if isinstance(segmentation, list) else [segmentation]
        decoded = masks.decode(runs)
    except Exception as error:  # the library raises almost anything
        raise UserError(f"a segmentation cannot be decoded ({type(error).__name__}: {error})") from error
    if decoded.shape[:2] != (height, width):
        raise UserError(
            f"a segmentation does not give a mask of {width} x {height} pixels: polygons are lists of at least three "
            "points [x, y, x, y, ...], run lengths have the size of the image"
        )
    return decoded.any(axis=2).astype(np.uint8) if decoded.ndim == 3 else decoded


def _from_runs(counts: Sequence[int], height: int, width: int) -> np.ndarray:
    """Mask of uncompressed run lengths: column by column, zeros first."""
    if sum(counts) != height * width:
        raise UserError(f"run lengths of {sum(counts)} pixels belong to another size than {height} x {width}")
    values = np.arange(len(counts)) % 2
    return np.repeat(values, counts).reshape(width, height).T.astype(np.uint8)


def check_size(path: str, size: tuple[int, int], record: dict) -> None:
    """Check an image's (height, width) against its record.

    Raises:
        UserError: they differ; with both sides exchanged the image has an EXIF orientation.
    """
    wanted = (record["height"], record["width"])
    if size == wanted:
        return
    hint = (
        "it was turned as its EXIF orientation says, and the boxes belong to the image as stored: save it upright"
        if size == wanted[::-1]
        else "the file belongs to other images"
    )
    raise UserError(
        f"{printable(path)} is {size[1]} x {size[0]} pixels, its record has {wanted[1]} x {wanted[0]}: {hint}"
    )
