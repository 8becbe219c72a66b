"""dat-eval for segmentation and detection: checkpoint and settings -> model and images -> evaluation -> report."""

import contextlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch

from dat_train.atomic import write_csv, write_json
from dat_train.commands.evaluating import common_facts, print_result, result_topics, run_evaluation
from dat_train.commands.evaluation_data import evaluation_set
from dat_train.commands.trained_dense import TrainedDense, assemble_dense
from dat_train.data.images import UnreadableImage
from dat_train.data.scenes.detection_dataset import DetectionImages
from dat_train.data.scenes.segmentation_dataset import EvaluationImages
from dat_train.evaluation.detection import DetectionEvaluation
from dat_train.evaluation.scenes_picture import draw_detections, draw_objects, write_grid
from dat_train.evaluation.segmentation import SegmentationEvaluation
from dat_train.evaluation.segmentation_files import segmentation_text, write_segmentation_report
from dat_train.models.checkpoint import Checkpoint
from dat_train.runtime.display_text import lowest_classes
from dat_train.runtime.processes import Processes
from dat_train.runtime.terminal import Terminal
from dat_train.settings import Settings

PICTURED = 8  # readable images in detections.png


def evaluate_dense(
    config: Settings,
    settings: Settings,
    checkpoint: Checkpoint,
    *,
    processes: Processes,
    terminal: Terminal,
    output: Path,
) -> None:
    """Evaluate a segmentation model or a detector on its validation set, and write the reports into `output`."""
    trained = assemble_dense(settings, checkpoint, config.ema, str(processes.device))
    val_set = evaluation_set(settings, checkpoint, processes)
    found, seconds = run_evaluation(
        settings, val_set, trained.model, precision=trained.precision, processes=processes, terminal=terminal
    )
    if not processes.is_main:
        return
    terminal.close()
    facts = {
        "task": settings.task,
        "model": f"{settings.dense.head} with {settings.model.name}",
        **settings.dense.only("limits", "scales", "flip"),
        **common_facts(trained, len(val_set), processes, seconds),
    }
    detecting = partial(write_detection, least_score=config.score)
    write = write_segmentation if settings.task == "segmentation" else detecting
    text = write(trained, val_set, found, facts, output)
    print_result(terminal, result_topics(facts, trained, val_set, found.unreadable), text, output)


def write_segmentation(
    trained: TrainedDense, val_set: EvaluationImages, found: SegmentationEvaluation, facts: dict, output: Path
) -> str:
    """Write the files of a segmentation evaluation; return the text for the terminal."""
    images = val_set.images

    def scene(index: int):
        image = images.read(index)
        return image, images.read_labels(index), np.asarray(trained.segment(image), np.uint8)

    write_segmentation_report(found, val_set.classes, scene, output, facts)
    return segmentation_text(found, val_set.classes)


def write_detection(
    trained: TrainedDense,
    val_set: DetectionImages,
    found: DetectionEvaluation,
    facts: dict,
    output: Path,
    *,
    least_score: float,
) -> str:
    """Write the files of a detection evaluation; return the text for the terminal.

    Args:
        least_score: of the objects in detections.png.
    """
    output.mkdir(parents=True, exist_ok=True)
    ids = val_set.file.category_ids
    records = val_set.records
    results = [
        result | {"image_id": records[result["image_id"] - 1]["id"], "category_id": ids[result["category_id"] - 1]}
        for result in found.results
    ]
    write_json(output / "detections.json", results)
    kinds = [f"{kind}_ap" for kind in found.precisions]
    columns = [(100 * part.class_ap).tolist() for part in found.precisions.values()]
    rows = zip(range(len(val_set.classes)), val_set.classes, *columns, strict=True)
    write_csv(output / "per_class.csv", ("index", "name", *kinds), rows)
    pictures = []
    for index in range(len(val_set)):
        if len(pictures) == 2 * PICTURED:
            break
        with contextlib.suppress(UnreadableImage):
            image, objects = val_set.read(index), val_set.file.usable(records[index])
            names = [val_set.classes[label] for label in objects.labels]
            pictures.append(draw_objects(image, torch.from_numpy(objects.boxes), names, objects.labels))
            pictures.append(draw_detections(image, trained.detect(image), trained.classes, least_score))
    titles = ("true", f"predicted (score over {least_score:g})") * PICTURED
    write_grid(pictures, output / "detections.png", columns=4, titles=titles)
    numbers = {"box": found.box, "mask": found.mask, "images": found.count, "unreadable": found.unreadable}
    write_json(output / "result.json", numbers | facts)
    return detection_text(found, val_set.classes)


def detection_text(found: DetectionEvaluation, classes: Sequence[str]) -> str:
    """The twelve numbers in percent, and the classes with the lowest box AP, as lines for the terminal."""
    lines = [f"{'':<6}" + "".join(f"{name:>7}" for name in found.box)]
    for kind, part in found.precisions.items():
        shown = (f"{100 * value:>7.1f}" if value >= 0 else f"{'-':>7}" for value in part.numbers.values())
        lines.append(f"{kind:<6}" + "".join(shown))
    return "\n".join([*lines, "", *lowest_classes(classes, 100 * found.precisions["box"].class_ap, "box AP")])
