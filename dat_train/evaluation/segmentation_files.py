"""Result files of a segmentation evaluation, and pictures of label maps."""

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from dat_train.atomic import write_csv, write_json
from dat_train.evaluation.confusion_picture import write_confusion_counts
from dat_train.evaluation.scenes_picture import overlay, palette, write_grid
from dat_train.evaluation.segmentation import SegmentationEvaluation
from dat_train.models.segmentation import IGNORED
from dat_train.runtime.display_text import NAME_WIDTH, lowest_classes, one_line

WORST = 8  # images in worst.png


def write_segmentation_report(
    evaluation: SegmentationEvaluation,
    classes: Sequence[str],
    scene: Callable[[int], tuple[Image.Image, np.ndarray, np.ndarray]],
    folder: Path,
    metadata: dict | None = None,
) -> dict:
    """Write result.json, per_class.csv, confusion.csv, confusion.png and worst.png into `folder`.

    Args:
        classes: names by class number.
        scene: index in the data set -> image, labels (H, W), predicted classes (H, W).
        metadata: further entries of result.json.

    Returns:
        The content of result.json.
    """
    folder.mkdir(parents=True, exist_ok=True)
    numbers = {name: getattr(evaluation, name) for name in ("miou", "pixel_accuracy", "mean_accuracy")}
    result = (
        {name: value if math.isfinite(value) else None for name, value in numbers.items()}
        | {  # JSON has no NaN
            "images": evaluation.count,
            "unreadable": evaluation.unreadable,
        }
        | (metadata or {})
    )
    columns = ("index", "name", "pixels", "iou", "accuracy")
    write_csv(folder / "per_class.csv", columns, per_class(evaluation, classes))
    rows = zip(classes, evaluation.confusion.tolist(), strict=True)  # of true classes
    write_csv(folder / "confusion.csv", ("true", *classes), ((name, *row) for name, row in rows))
    write_confusion_counts(evaluation.confusion, classes, folder / "confusion.png")
    scenes = [
        (evaluation.image_iou[place], *scene(int(evaluation.image_indices[place]))) for place in evaluation.worst(WORST)
    ]
    write_scenes_picture(scenes, classes, folder / "worst.png")
    write_json(folder / "result.json", result)
    return result


def per_class(evaluation: SegmentationEvaluation, classes: Sequence[str]) -> Iterator[tuple]:
    """Number, name, pixels, intersection over union and accuracy of every class; percent, NaN without pixels."""
    for number, name in enumerate(classes):
        pixels = int(evaluation.confusion[number].sum())
        accuracy = 100 * evaluation.confusion[number, number] / pixels if pixels else float("nan")
        yield number, name, pixels, float(evaluation.class_iou[number]), float(accuracy)


def segmentation_text(evaluation: SegmentationEvaluation, classes: Sequence[str]) -> str:
    """Metrics and the classes with the lowest intersection over union, as lines for the terminal."""
    numbers = (
        f"mIoU {evaluation.miou:.2f} %   pixel accuracy {evaluation.pixel_accuracy:.2f} %   "
        f"mean accuracy {evaluation.mean_accuracy:.2f} %   {evaluation.count:,} images"
    )
    return "\n".join([numbers, "", *lowest_classes(classes, evaluation.class_iou, "IoU")])


def write_scenes_picture(
    scenes: Sequence[tuple[float, Image.Image, np.ndarray, np.ndarray]], classes: Sequence[str], path: Path
) -> None:
    """Draw image, true classes and predicted classes of scenes side by side, with a legend, and write them (PNG).

    Args:
        scenes: (intersection over union in percent, image, labels (H, W), predicted (H, W)) of each.
    """
    pictures, titles = [], []
    for iou, image, labels, predicted in scenes:
        pictures += [image, overlay(image, labels, classes), overlay(image, predicted, classes)]
        titles += ["image", "true", f"predicted, IoU {iou:.0f} %"]
    shown = sorted({int(c) for _, _, *maps in scenes for labels in maps for c in np.unique(labels)} - {IGNORED})[:24]
    legend = {one_line(classes[c], NAME_WIDTH): palette(len(classes))[c] / 255 for c in shown}
    write_grid(pictures, path, columns=3, titles=titles, legend=legend)
