"""Checks of an annotation file in the COCO format before its use."""

import math
from collections import Counter
from pathlib import Path
from typing import Any

from dat_train.errors import UserError

NUMBER, TEXT, IDENTITY = (int, float), (str,), (int, str)
KINDS = {NUMBER: "a number", TEXT: "a text", IDENTITY: "a number or a text", (list,): "a list"}
RECORDS = {  # lists of the file, and the keys of their records that are read
    "images": {"id": IDENTITY, "file_name": TEXT, "height": NUMBER, "width": NUMBER},
    "annotations": {"image_id": IDENTITY, "category_id": IDENTITY, "bbox": (list,)},
    "categories": {"id": IDENTITY, "name": TEXT},
}


def check_records(path: Path, content: Any) -> None:
    """Check the lists of the COCO format and those keys of their records that are read.

    Raises:
        UserError: a list or a key that is missing or of another type, equal ids, or a background category.
    """
    for part, keys in RECORDS.items():
        records = content.get(part) if isinstance(content, dict) else None
        if not isinstance(records, list):
            raise UserError(f"{path} has no list {part!r}: it must be an annotation file in the COCO format")
        for number, record in enumerate(records):
            for key, kinds in keys.items():
                value = record.get(key) if isinstance(record, dict) else None
                if value is None:
                    raise UserError(f"{path}: entry {number} of {part!r} has no {key!r}; the COCO format needs it")
                if not isinstance(value, kinds):
                    raise UserError(f"{path}: entry {number} of {part!r}: {key}={value!r} must be {KINDS[kinds]}")
    wrong = next((annotation for annotation in content["annotations"] if not _is_box(annotation["bbox"])), None)
    if wrong:
        raise UserError(
            f"{path}: annotation {wrong.get('id')} has bbox {wrong['bbox']}: it must be [x, y, width, height]"
        )
    wrong = next((annotation for annotation in content["annotations"] if not _is_area(annotation.get("area"))), None)
    if wrong:
        raise UserError(
            f"{path}: annotation {wrong.get('id')} has area {wrong['area']!r}: it must be a number; remove the key if "
            "it is unknown"
        )
    for part, key in (("images", "id"), ("categories", "id"), ("categories", "name")):
        values = [record[key] for record in content[part]]
        value, count = next(iter(Counter(values).most_common(1)), (None, 0))
        if count > 1:
            raise UserError(f"{path} has several {part} with the {key} {value}: each needs its own")
        if len({isinstance(value, str) for value in values}) > 1:
            raise UserError(f"{path}: ids of {part} must be numbers alone, or texts alone")
    if any(category["name"].lower() in ("background", "__background__") for category in content["categories"]):
        raise UserError(f"{path} has a category 'background': leave it out, it is not an object")


def _is_box(box: list) -> bool:
    return len(box) == 4 and all(isinstance(value, NUMBER) and math.isfinite(value) for value in box)


def _is_area(area: Any) -> bool:
    return area is None or (isinstance(area, NUMBER) and math.isfinite(area))


def segmentation_fault(segmentation: Any, height: int, width: int) -> str | None:
    """Fault of an object's segmentation as a mask of its image, without decoding it; None if there is none.

    Args:
        segmentation: polygons or run lengths, as in the file.
        height, width: of the image, pixels.
    """
    if not segmentation:
        return "has no segmentation: masks need one for each object; set dense.head=retinanet, which has no masks"
    if isinstance(segmentation, list):
        if all(isinstance(polygon, list) and len(polygon) >= 6 and len(polygon) % 2 == 0 for polygon in segmentation):
            return None
        return "has a wrong polygon: it must be a list of at least three points [x, y, x, y, ...]; remove the object"
    counts = segmentation.get("counts") if isinstance(segmentation, dict) else None
    if isinstance(counts, list):
        if set(map(type, counts)) != {int} or min(counts) < 0:
            return "has run lengths that are not whole numbers of at least 0; remove the object"
        pixels = sum(counts)
        if pixels == height * width:
            return None
        return f"has run lengths of {pixels} pixels, which belong to another size than {width} x {height}"
    if isinstance(counts, str | bytes) and segmentation.get("size") == [height, width]:
        return None
    return f"has a segmentation that is neither polygons nor run lengths of {width} x {height} pixels"
