"""dat-eval for segmentation and detection: checkpoint and settings -> model and images -> evaluation -> report."""

import contextlib
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch

from dat_train.atomic import write_csv, write_json
from dat_train.commands.build_data import evaluation_batches
from dat_train.commands.build_dense import validation_set
from dat_train.commands.evaluating import watched
from dat_train.commands.trained_dense import TrainedDense, assemble_dense
from dat_train.data.detection_dataset import DetectionImages
from dat_train.data.images import UnreadableImage
from dat_train.data.segmentation_dataset import EvaluationImages
from dat_train.errors import UserError
from dat_train.evaluation.detection import DetectionEvaluation, evaluate_detection
from dat_train.evaluation.scenes_picture import NAME_WIDTH, draw_detections, draw_objects, write_grid
from dat_train.evaluation.segmentation import evaluate_segmentation
from dat_train.evaluation.segmentation_files import segmentation_text, write_segmentation_report
from dat_train.models import count_parameters
from dat_train.models.checkpoint import Checkpoint
from dat_train.runtime.display_text import one_line
from dat_train.runtime.processes import Processes
from dat_train.runtime.terminal import Terminal
from dat_train.settings import Settings
from dat_train.training.summary import table

PICTURED = 8  # readable images in detections.png
SEGMENTATION_FILES = ("result.json", "per_class.csv", "confusion.csv", "confusion.png", "worst.png")
LISTED = 12  # classes on the terminal


def evaluate_dense(
    config: Settings, settings: Settings, checkpoint: Checkpoint, processes: Processes, terminal: Terminal, output: Path
) -> None:
    """Evaluate a segmentation model or a detector on its validation set, and write the reports into `output`."""
    val_set = validation_set(settings, processes)
    trained = assemble_dense(settings, checkpoint, config.ema, config.device)
    published = not checkpoint.config  # classes in the order of the data, by definition; spelled as the authors do
    if len(trained.classes) != len(val_set.classes) or (trained.classes != val_set.classes and not published):
        raise UserError(
            f"{checkpoint.path} has {len(trained.classes)} classes, data={settings.data.name} has "
            f"{len(val_set.classes)} or others: set data=..."
        )
    loader = evaluation_batches(settings, val_set, processes)
    start = time.monotonic()
    batches = watched(loader, terminal, start, settings.timeout_minutes)
    if settings.task == "segmentation":
        found = evaluate_segmentation(
            trained.model,
            batches,
            num_classes=len(val_set.classes),
            precision=trained.precision,
            processes=processes,
            flip=bool(settings.dense.flip),
        )
    else:
        found = evaluate_detection(
            trained.model, batches, classes=val_set.classes, precision=trained.precision, processes=processes
        )
    if not processes.is_main:
        return
    seconds = time.monotonic() - start
    facts = {
        "task": settings.task,
        "model": f"{settings.dense.head} with {settings.model.name}",
        "parameters": count_parameters(trained.model),
        "checkpoint": str(checkpoint.path),
        "weights": trained.weights.source,
        "data": settings.data.name,
        "data_root": settings.data.root,
        "limits": settings.dense.limits,
        "scales": settings.dense.scales,
        "flip": settings.dense.flip,
        "dtype": trained.precision.name,
        "device": trained.precision.device.type,
        "processes": processes.world_size,
        "images_per_second": round(len(val_set) / seconds, 2),
    }
    detecting = partial(write_detection, least_score=config.score)
    write = write_segmentation if settings.task == "segmentation" else detecting
    terminal.close()
    text, names = write(trained, val_set, found, facts, output)
    topics = [
        ("weights", f"{checkpoint.path} ({trained.weights.source})"),
        ("data", f"{facts['data']}, {facts['data_root']}"),
    ]
    terminal.say(table([*topics, ("model", f"{facts['model']}, {facts['parameters'] / 1e6:.2f} M parameters")]))
    terminal.say(f"\n{text}\n")
    terminal.say(f"in {output}: {', '.join(names)}")


def write_segmentation(
    trained: TrainedDense, val_set: EvaluationImages, found, facts: dict, output: Path
) -> tuple[str, tuple[str, ...]]:
    """Files of a segmentation evaluation; returns the text for the terminal and the names of the files."""
    images = val_set.images

    def scene(index: int):
        image = images.read(index)
        return image, images.read_labels(index), np.asarray(trained.segment(image), np.uint8)

    write_segmentation_report(found, val_set.classes, scene, output, facts)
    return segmentation_text(found, val_set.classes), SEGMENTATION_FILES


def write_detection(
    trained: TrainedDense,
    val_set: DetectionImages,
    found: DetectionEvaluation,
    facts: dict,
    output: Path,
    *,
    least_score: float,
) -> tuple[str, tuple[str, ...]]:
    """Files of a detection evaluation; returns the text for the terminal and the names of the files.

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
    return detection_text(found, val_set.classes), ("result.json", "per_class.csv", "detections.json", "detections.png")


def detection_text(found: DetectionEvaluation, classes: Sequence[str]) -> str:
    """The twelve numbers in percent, and the classes with the lowest box AP, as lines for the terminal."""
    lines = [f"{'':<6}" + "".join(f"{name:>7}" for name in found.box)]
    for kind, part in found.precisions.items():
        shown = (f"{100 * value:>7.1f}" if value >= 0 else f"{'-':>7}" for value in part.numbers.values())
        lines.append(f"{kind:<6}" + "".join(shown))
    class_ap = found.precisions["box"].class_ap
    known = [k for k in np.argsort(class_ap, kind="stable") if not np.isnan(class_ap[k])]
    title = "class" if len(known) <= LISTED else f"class (lowest {LISTED} of {len(known)})"
    names = [one_line(classes[k], NAME_WIDTH) for k in known[:LISTED]]
    width = max(len(text) for text in (title, *names))
    lines += ["", f"{title:<{width}}   box AP"]
    lines += [f"{name:<{width}}   {100 * class_ap[k]:>6.1f}" for name, k in zip(names, known, strict=False)]
    return "\n".join(lines)
