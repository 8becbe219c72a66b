"""dat-predict for segmentation and detection: images -> masks or boxes as pictures and JSON."""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dat_train.atomic import write_json
from dat_train.commands.evaluate_dense import detections_picture
from dat_train.commands.trained_dense import TrainedDense
from dat_train.data.images import UnreadableImage, read_rgb
from dat_train.errors import UserError
from dat_train.evaluation.detection import coco_results
from dat_train.evaluation.scenes_picture import label_picture, overlay

SOME_UNREADABLE = 1  # exit code


def predict_dense(trained: TrainedDense, paths: Sequence[str], output: Path) -> None:
    """Write the predictions for images into the folder `output`; exits with SOME_UNREADABLE if one cannot be read.

    Segmentation: NAME.mask.png (pixel values are class numbers, with a palette), NAME.overlay.png, and areas.json with
    pixels and share of each class in each image. Detection: NAME.boxes.png and detections.json in the COCO format.
    """
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"output={output} cannot be written: {error.strerror}") from error
    segmenting = trained.settings.task == "segmentation"
    areas, images, annotations, unreadable, taken = [], [], [], 0, set()
    for path in paths:
        try:
            image = read_rgb(path)
        except UnreadableImage as error:
            unreadable += 1
            print(f"warning: {' '.join(str(error).split())}", file=sys.stderr)
            continue
        name = _free_name(Path(path).stem, taken)
        if segmenting:
            areas.append({"path": path, "classes": _segment(trained, image, output / name)})
            largest = list(areas[-1]["classes"].items())[:4]
            print(f"{path}: {', '.join(_share_text(*item) for item in largest)}")
        else:
            number = len(images) + 1
            images.append({"id": number, "file_name": path, "height": image.height, "width": image.width})
            found = coco_results(trained.detect(image), number, (image.height, image.width))
            annotations += found
            detections_picture(trained, image).save(output / f"{name}.boxes.png")
            print(f"{path}: {sum(result['score'] >= 0.3 for result in found)} objects with a score over 0.3")
    if segmenting:
        write_json(output / "areas.json", areas)
    else:
        categories = [{"id": k + 1, "name": name} for k, name in enumerate(trained.classes)]
        numbered = [annotation | {"id": i} for i, annotation in enumerate(annotations, start=1)]
        write_json(output / "detections.json", {"images": images, "annotations": numbered, "categories": categories})
    print(f"in {output}: {'areas.json' if segmenting else 'detections.json'} and pictures")
    if unreadable:
        print(f"{unreadable:,} of {len(paths):,} images could not be read", file=sys.stderr)
        sys.exit(SOME_UNREADABLE)


def _segment(trained: TrainedDense, image, path: Path) -> dict[str, dict[str, float]]:
    """Write mask and overlay of one image; return pixels and share of each class, largest first."""
    number = len(trained.classes)
    labels = np.asarray(trained.segment(image), np.uint8)
    label_picture(labels, number).save(path.with_name(f"{path.name}.mask.png"))
    overlay(image, labels, number).save(path.with_name(f"{path.name}.overlay.png"))
    pixels = np.bincount(labels.ravel(), minlength=number)
    order = np.argsort(-pixels, kind="stable")
    return {
        trained.classes[k]: {"pixels": int(pixels[k]), "share": float(pixels[k] / labels.size)}
        for k in order
        if pixels[k]
    }


def _share_text(name: str, numbers: dict[str, float]) -> str:
    return f"{name} {numbers['share']:.1%}"


def _free_name(stem: str, taken: set[str]) -> str:
    name, number = stem, 1
    while name in taken:
        number += 1
        name = f"{stem}-{number}"
    taken.add(name)
    return name
