"""Prediction of a segmentation model or a detector for one image, as text, record, pictures and regions.

`PredictedAreas` and `PredictedObjects` have the same methods and attributes:

    text: the prediction in one line.
    shares: name and fraction of the image of each class, or name and score of each object.
    picture(): the prediction drawn on the image.
    regions(): predicted areas or objects in pixels of the image, for traced points.
    record(): plain values for the file.
    write(path): writes the pictures; `path` has no extension.
    file, content(records, classes): name and content of the file with the records of all images.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL.Image import Image
from torchvision.ops import box_iou

from dat_train.commands.load_trained import TrainedDense
from dat_train.evaluation.detection import coco_results
from dat_train.evaluation.scenes_picture import (
    connected_areas,
    draw_detections,
    label_picture,
    named_overlay,
    palette,
)
from dat_train.models.detection.boxes import Detections
from dat_train.models.detection.masks import paste_masks
from dat_train.runtime.display_text import NAME_WIDTH, one_line
from dat_train.viewer.scene_pictures import Region

MAX_REGIONS = 9  # maximum number of objects or areas with traced points
SAME_OBJECT = 0.7  # IoU above which only the box with the best score becomes a region


class PredictedAreas:
    """Class of every pixel.

    Args:
        labels: (H, W) uint8 class numbers.
    """

    file = "areas.json"

    def __init__(self, image: Image, classes: Sequence[str], labels: np.ndarray) -> None:
        self.image = image
        self.classes = classes
        self.labels = labels
        pixels = np.bincount(labels.ravel(), minlength=len(classes)).tolist()
        order = sorted(range(len(classes)), key=lambda label: -pixels[label])
        self.pixels = {classes[label]: pixels[label] for label in order if pixels[label]}  # largest first
        self.shares = [(name, number / labels.size) for name, number in self.pixels.items()]
        self.text = ", ".join(f"{one_line(name)} {share:.1%}" for name, share in self.shares[:4])

    def picture(self) -> Image:
        return named_overlay(self.image, self.labels, self.classes)

    def regions(self) -> list[Region]:
        """The largest connected areas of a class."""
        colors, regions = palette(len(self.classes)) / 255, []
        areas = connected_areas(self.labels, self.classes)
        for area in sorted(areas, key=lambda area: -area.pixels)[:MAX_REGIONS]:
            box = np.array([area.columns.start, area.rows.start, area.columns.stop, area.rows.stop], float)
            mask = np.zeros(self.labels.shape, bool)
            mask[area.rows, area.columns] = area.mask
            regions.append(Region(one_line(self.classes[area.label], NAME_WIDTH), box, mask, tuple(colors[area.label])))
        return regions

    def record(self) -> dict:
        return {"classes": {name: {"pixels": self.pixels[name], "share": share} for name, share in self.shares}}

    def write(self, path: Path) -> None:
        """NAME.mask.png, whose pixel values are class numbers, with a palette, and NAME.overlay.png."""
        label_picture(self.labels, len(self.classes)).save(path.with_name(f"{path.name}.mask.png"))
        self.picture().save(path.with_name(f"{path.name}.overlay.png"))

    @staticmethod
    def content(records: Sequence[dict], classes: Sequence[str]) -> Sequence[dict]:
        return records


class PredictedObjects:
    """Objects with boxes and, for some detectors, masks.

    Args:
        found: all detections; those with a score of at least `min_score` are drawn, named and counted.
    """

    file = "detections.json"

    def __init__(self, image: Image, classes: Sequence[str], found: Detections, min_score: float) -> None:
        self.image = image
        self.classes = classes
        self.found = found
        self.min_score = min_score
        self.shown = found.selected((found.scores >= min_score).nonzero()[:, 0])
        labels = self.shown.labels.tolist()
        self.shares = [(classes[k], score) for k, score in zip(labels, self.shown.scores.tolist(), strict=True)]
        counts = [f"{number} x {one_line(classes[label])}" for label, number in Counter(labels).most_common()]
        self.text = f"{', '.join(counts[:6]) or 'no objects'} (score over {min_score:g})"

    def picture(self) -> Image:
        return draw_detections(self.image, self.found, self.classes, self.min_score)

    def regions(self) -> list[Region]:
        """The best objects; of those with nearly the same box, the one with the best score."""
        boxes, labels = self.shown.boxes, self.shown.labels.tolist()
        masks: Sequence = [None] * len(labels)
        if self.shown.mask_logits:
            masks = paste_masks(self.shown.mask_logits, boxes, (self.image.height, self.image.width)).numpy()
        colors, overlaps = palette(len(self.classes)) / 255, box_iou(boxes, boxes).triu(1)
        regions = [
            Region(f"{one_line(name, NAME_WIDTH)} {score:.2f}", boxes[i].numpy(), masks[i], tuple(colors[labels[i]]))
            for i, (name, score) in enumerate(self.shares)
            if not (overlaps[:, i] > SAME_OBJECT).any()
        ]
        return regions[:MAX_REGIONS]

    def record(self) -> dict:
        size = (self.image.height, self.image.width)
        return {"height": size[0], "width": size[1], "results": coco_results(self.found, 0, size)}

    def write(self, path: Path) -> None:
        """NAME.boxes.png."""
        self.picture().save(path.with_name(f"{path.name}.boxes.png"))

    @staticmethod
    def content(records: Sequence[dict], classes: Sequence[str]) -> dict[str, list]:
        """COCO format: images, annotations and categories; ids are counted from 1."""
        images, annotations = [], []
        for number, record in enumerate(records, start=1):
            sizes = {"height": record["height"], "width": record["width"]}
            images.append({"id": number, "file_name": record["path"], **sizes})
            annotations += [result | {"image_id": number} for result in record["results"]]
        numbered = [{"id": i} | annotation for i, annotation in enumerate(annotations, start=1)]
        categories = [{"id": k + 1, "name": name} for k, name in enumerate(classes)]
        return {"images": images, "annotations": numbered, "categories": categories}


def predict_scene(
    trained: TrainedDense, image: Image, min_score: float, **views: object
) -> PredictedAreas | PredictedObjects:
    """Predict the areas or objects of one image.

    Args:
        min_score: minimum score of the objects of a detector, see `PredictedObjects`.
        views: scales and flip of `TrainedDense.segment`.
    """
    if trained.settings.task == "segmentation":
        labels = np.asarray(trained.segment(image, **views), np.uint8)
        return PredictedAreas(image, trained.classes, labels)
    return PredictedObjects(image, trained.classes, trained.detect(image), min_score)
