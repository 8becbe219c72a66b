"""Result files of an evaluation of detection: metrics, average precision of each class, detections, pictures."""

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from PIL.Image import Image

from dat_train.atomic import write_csv, write_json
from dat_train.data.images import UnreadableImage
from dat_train.data.scenes.detection_dataset import DetectionImages
from dat_train.evaluation.detection import DetectionEvaluation
from dat_train.evaluation.scenes_picture import draw_detections, draw_objects, write_grid
from dat_train.models.detection.boxes import Detections
from dat_train.runtime.display_text import lowest_classes

PICTURED = 8  # number of images in detections.png


def write_detection_report(
    evaluation: DetectionEvaluation,
    dataset: DetectionImages,
    folder: Path,
    metadata: dict,
    *,
    detect: Callable[[Image], Detections],
    min_score: float,
) -> dict:
    """Write result.json, per_class.csv, detections.json and detections.png into `folder`.

    Args:
        metadata: further entries of result.json.
        detect: image -> detections in its pixels.
        min_score: minimum score of the objects in detections.png.

    Returns:
        The content of result.json.
    """
    folder.mkdir(parents=True, exist_ok=True)
    classes, ids, records = dataset.classes, dataset.file.category_ids, dataset.records
    results = [
        result | {"image_id": records[result["image_id"] - 1]["id"], "category_id": ids[result["category_id"] - 1]}
        for result in evaluation.results
    ]
    write_json(folder / "detections.json", results)
    kinds = [f"{kind}_ap" for kind in evaluation.precisions]
    columns = [(100 * part.class_ap).tolist() for part in evaluation.precisions.values()]
    rows = zip(range(len(classes)), classes, *columns, strict=True)
    write_csv(folder / "per_class.csv", ("index", "name", *kinds), rows)
    pictures = []
    for index in range(len(dataset)):
        if len(pictures) == 2 * PICTURED:
            break
        with contextlib.suppress(UnreadableImage):
            image, objects = dataset.read(index), dataset.file.usable(records[index])
            names = [classes[label] for label in objects.labels]
            pictures.append(draw_objects(image, torch.from_numpy(objects.boxes), names, objects.labels))
            pictures.append(draw_detections(image, detect(image), classes, min_score))
    titles = ("true", f"predicted (score over {min_score:g})") * PICTURED
    write_grid(pictures, folder / "detections.png", columns=4, titles=titles)
    result = {
        "box": evaluation.box,
        "mask": evaluation.mask,
        "images": evaluation.count,
        "unreadable": evaluation.unreadable,
    } | metadata
    write_json(folder / "result.json", result)
    return result


def detection_text(evaluation: DetectionEvaluation, classes: Sequence[str]) -> str:
    """The twelve numbers in percent, and the classes with the lowest box AP, as lines for the terminal."""
    lines = [f"{'':<6}" + "".join(f"{name:>7}" for name in evaluation.box)]
    for kind, part in evaluation.precisions.items():
        shown = (f"{100 * value:>7.1f}" if value >= 0 else f"{'-':>7}" for value in part.numbers.values())
        lines.append(f"{kind:<6}" + "".join(shown))
    return "\n".join([*lines, "", *lowest_classes(classes, 100 * evaluation.precisions["box"].class_ap, "box AP")])
