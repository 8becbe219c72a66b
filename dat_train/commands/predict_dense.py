"""dat-predict for segmentation and detection: images -> masks or boxes as pictures and JSON."""

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from PIL.Image import Image

from dat_train.atomic import write_json
from dat_train.commands.output_folder import folder_names, output_errors
from dat_train.commands.trained_dense import TrainedDense
from dat_train.data.images import UnreadableImage, printable, read_rgb
from dat_train.evaluation.detection import coco_results
from dat_train.evaluation.scenes_picture import draw_detections, label_picture, named_overlay
from dat_train.models.detection.boxes import Detections
from dat_train.runtime.batch_feed import feed_once
from dat_train.runtime.display_text import one_line


def predict_dense(trained: TrainedDense, paths: Sequence[str], output: Path, least_score: float) -> int:
    """Write the predictions for images into the folder `output`; return the number of unreadable images.

    Segmentation: NAME.mask.png (pixel values are class numbers, with a palette), NAME.overlay.png, and areas.json with
    pixels and share of each class in each image. Detection: NAME.boxes.png and detections.json in the COCO format.

    Args:
        least_score: of the objects that are drawn and counted; detections.json has all.

    Raises:
        UserError: the folder cannot be written, or an image does not arrive within timeout_minutes.
    """
    segmenting = trained.settings.task == "segmentation"
    predict = _predict_areas if segmenting else partial(_predict_objects, least_score=least_score)
    records, unreadable = [], 0
    with output_errors(output):
        output.mkdir(parents=True, exist_ok=True)
        timeout = trained.settings.timeout_minutes
        images = feed_once(_Images(paths), print_warning, unit="image", timeout_minutes=timeout)
        for path, name, image in zip(paths, folder_names(paths), images, strict=True):
            if isinstance(image, UnreadableImage):
                unreadable += 1
                print_warning(" ".join(str(image).split()))
                continue
            record, text = predict(trained, image, output / name)
            records.append({"path": printable(path)} | record)
            print(f"{printable(path)}: {text}")
        file = output / ("areas.json" if segmenting else "detections.json")
        write_json(file, records if segmenting else _coco(records, trained.classes))
    print(f"in {output}: {file.name} and pictures")
    return unreadable


class _Images:
    """Images of files, in order; the error in place of an unreadable image."""

    def __init__(self, paths: Sequence[str]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __iter__(self) -> Iterator[Image | UnreadableImage]:
        for path in self.paths:
            try:
                yield read_rgb(path)
            except UnreadableImage as error:
                yield error


def print_warning(text: str) -> None:
    print(f"warning: {text}", file=sys.stderr)


def _predict_areas(trained: TrainedDense, image: Image, path: Path) -> tuple[dict, str]:
    """Write mask and overlay of one image; return pixels and share of each class, largest first, and a line."""
    labels = np.asarray(trained.segment(image), np.uint8)
    label_picture(labels, len(trained.classes)).save(path.with_name(f"{path.name}.mask.png"))
    named_overlay(image, labels, trained.classes).save(path.with_name(f"{path.name}.overlay.png"))
    areas = {
        trained.classes[k]: {"pixels": pixels, "share": pixels / labels.size}
        for k, pixels in sorted_areas(labels, len(trained.classes))
    }
    return {"classes": areas}, areas_text(trained.classes, labels)


def sorted_areas(labels: np.ndarray, number: int) -> list[tuple[int, int]]:
    """Class and number of pixels of each class of a label map, largest first."""
    pixels = np.bincount(labels.ravel(), minlength=number).tolist()
    return [(k, pixels[k]) for k in sorted(range(number), key=lambda k: -pixels[k]) if pixels[k]]


def areas_text(classes: Sequence[str], labels: np.ndarray) -> str:
    """The largest classes of a label map with their shares, in one line."""
    areas = sorted_areas(labels, len(classes))[:4]
    return ", ".join(f"{one_line(classes[k])} {pixels / labels.size:.1%}" for k, pixels in areas)


def _predict_objects(trained: TrainedDense, image: Image, path: Path, least_score: float) -> tuple[dict, str]:
    """Draw the objects of one image; return its size and its detections in the COCO format, and a line."""
    found = trained.detect(image)
    draw_detections(image, found, trained.classes, least_score).save(path.with_name(f"{path.name}.boxes.png"))
    results = coco_results(found, 0, (image.height, image.width))
    text = objects_text(trained.classes, found, least_score)
    return {"height": image.height, "width": image.width, "results": results}, text


def objects_text(classes: Sequence[str], found: Detections, least_score: float) -> str:
    """Numbers of objects by class, with a score of at least `least_score`, in one line."""
    numbers = Counter(found.labels[found.scores >= least_score].tolist())
    counts = [f"{number} x {one_line(classes[label])}" for label, number in numbers.most_common()]
    return f"{', '.join(counts[:6]) or 'no objects'} (score over {least_score:g})"


def _coco(records: Sequence[dict], classes: Sequence[str]) -> dict[str, list]:
    """Content of detections.json: images, annotations and categories; ids are counted from 1."""
    images, annotations = [], []
    for number, record in enumerate(records, start=1):
        images.append({"id": number, "file_name": record["path"], "height": record["height"], "width": record["width"]})
        annotations += [result | {"image_id": number} for result in record["results"]]
    numbered = [{"id": i} | annotation for i, annotation in enumerate(annotations, start=1)]
    categories = [{"id": k + 1, "name": name} for k, name in enumerate(classes)]
    return {"images": images, "annotations": numbered, "categories": categories}
