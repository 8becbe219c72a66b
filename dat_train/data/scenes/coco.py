"""Detection sets in the COCO format: COCO itself, own images with such a file, digit scenes."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from dat_train.choices import DETECTION_KINDS
from dat_train.data.generated.digit_scenes import write_digit_scenes
from dat_train.data.generated.nuclei import write_nuclei
from dat_train.data.images import printable
from dat_train.data.scenes.coco_checks import check_records, segmentation_fault
from dat_train.data.storages.folders import existing_folder
from dat_train.errors import UserError, require_one_of

PARTS = ("train", "val")
LEAST_SIDE = 32  # minimum side of a training image, pixels
COCO_CLASSES = 80


@dataclass
class Objects:
    """Objects of one image.

    Args:
        boxes: (N, 4) float32 corners x1, y1, x2, y2 in pixels.
        labels: (N,) int64, 0-based.
        segmentations: of each object, polygons or run lengths as in the file, or None.
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
            if is_usable(annotation, image):
                x, y, width, height = annotation["bbox"]
                boxes.append([x, y, x + width, y + height])
                labels.append(label[annotation["category_id"]])
                segmentations.append(annotation.get("segmentation"))
        return Objects(np.array(boxes, np.float32).reshape(-1, 4), np.array(labels, np.int64), segmentations)

    def notes(self) -> list[str]:
        """Images and objects that are not trained on, one line each."""
        kept = [len(self.usable(image).labels) for image in self.images]
        total = sum(map(len, self.objects.values()))
        notes = []
        if empty := kept.count(0):
            notes.append(f"{empty:,} of {len(kept):,} images have no object to train on")
        if left_out := total - sum(kept):
            notes.append(
                f"{left_out:,} of {total:,} objects are not trained on: crowds, boxes outside the image, boxes or "
                "areas of less than a pixel"
            )
        return notes

    def check_masks(self, training: bool) -> None:
        """Check the segmentation of every object that is trained on or evaluated.

        If no object of the validation images has one, they are evaluated by their boxes only.

        Raises:
            UserError: an object without segmentation, or with one that is not a mask of its image.
        """
        if not training and not any(a.get("segmentation") for objects in self.objects.values() for a in objects):
            return
        for image in self.images:
            for annotation in self.objects.get(image["id"], []):
                if not training or is_usable(annotation, image):
                    fault = segmentation_fault(annotation.get("segmentation"), image["height"], image["width"])
                    if fault:
                        raise UserError(f"{self.path}: annotation {annotation.get('id')} {fault}")

    def truth(self, image: dict) -> list[dict]:
        """All annotations of an image for evaluation, crowds included; category ids are class numbers plus one."""
        number = {identity: k + 1 for k, identity in enumerate(self.category_ids)}
        return [
            {
                "bbox": annotation["bbox"],
                "area": area(annotation),
                "iscrowd": annotation.get("iscrowd") or 0,
                "category_id": number[annotation["category_id"]],
            }
            | ({"segmentation": annotation["segmentation"]} if annotation.get("segmentation") else {})
            for annotation in self.objects.get(image["id"], [])
        ]


def area(annotation: dict) -> float:
    """Area of an object in pixels: that of its record, or else that of its box."""
    stated = annotation.get("area")
    return annotation["bbox"][2] * annotation["bbox"][3] if stated is None else stated


def is_usable(annotation: dict, image: dict) -> bool:
    """Return True for an object to train on: no crowd, an area above 0, and a box of at least a pixel in the image."""
    x, y, width, height = annotation["bbox"]
    overlap_x = max(0, min(x + width, image["width"]) - max(x, 0))
    overlap_y = max(0, min(y + height, image["height"]) - max(y, 0))
    if annotation.get("iscrowd") or area(annotation) <= 0:
        return False
    return width >= 1 and height >= 1 and overlap_x * overlap_y > 0


def open_coco(
    kind: str, root: str | None, split_seed: int = 0, parts: Sequence[str] = PARTS
) -> list[tuple[Path, CocoFile]]:
    """(image folder, annotations) of each part.

    Args:
        kind: "coco": annotations/instances_{train,val}2017.json, train2017/, val2017/; "boxes": the same without 2017,
            images in images/train and images/val; "digit_scenes", "nuclei": written to `root` first.
        root: folder.
        split_seed: of kind "nuclei".
        parts: "train", "val" or both; only these are read.

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
    opened = []
    for part in parts:
        name, images = (f"{part}2017", folder / f"{part}2017") if kind == "coco" else (part, folder / "images" / part)
        if not images.is_dir():
            raise UserError(f"{images} does not exist: data={kind} needs {images.relative_to(folder)}/ below {folder}")
        file = read_coco(folder / "annotations" / f"instances_{name}.json")
        if kind == "coco" and len(file.classes) != COCO_CLASSES:
            raise UserError(
                f"{file.path} has {len(file.classes)} categories, COCO has {COCO_CLASSES}: with 91, unused numbers "
                "were counted as classes; for other data take data=boxes"
            )
        if opened and file.classes != opened[0][1].classes:
            first = opened[0][1].path.name
            raise UserError(f"{first} and {file.path.name} have different categories: they must be the same")
        opened.append((images, file))
    return opened


def read_coco(path: Path) -> CocoFile:
    """Read the annotation file at `path`.

    Raises:
        UserError: missing, not JSON, or not in the COCO format.
    """
    if not path.is_file():
        raise UserError(f"{path} does not exist")
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}): copy it again") from None
    check_records(path, content)
    categories = sorted(content["categories"], key=lambda category: category["id"])
    names = [category["name"] for category in categories]
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
        UserError: another format, or a mask of another size.
    """
    if fault := segmentation_fault(segmentation, height, width):
        raise UserError(f"an object {fault}")
    if isinstance(segmentation, dict) and isinstance(segmentation["counts"], list):
        return _from_runs(segmentation["counts"], height, width)
    try:
        from faster_coco_eval.core import mask as masks
    except ImportError:
        raise UserError("masks as polygons need faster-coco-eval: pip install dat-train[detection]") from None
    try:
        runs = masks.frPyObjects(segmentation, height, width) if isinstance(segmentation, list) else [segmentation]
        decoded = masks.decode(runs)
    except Exception as error:  # the library raises errors of many types
        raise UserError(f"a segmentation cannot be decoded ({type(error).__name__}: {error})") from error
    return decoded.any(axis=2).astype(np.uint8) if decoded.ndim == 3 else decoded


def _from_runs(counts: Sequence[int], height: int, width: int) -> np.ndarray:
    """Mask of uncompressed run lengths: column by column, zeros first."""
    values = np.arange(len(counts)) % 2
    return np.repeat(values, counts).reshape(width, height).T.astype(np.uint8)


def check_size(path: str, size: tuple[int, int], record: dict) -> None:
    """Compare the (height, width) of an image with its record.

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
