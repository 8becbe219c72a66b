"""Evaluation of a model of any task on a data set, with progress on the terminal, and the text of its result."""

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from torch import nn
from torch.utils.data import Dataset

from dat_train.commands.build_data import evaluation_batches
from dat_train.commands.trained import TrainedModel
from dat_train.data.batch import Batch
from dat_train.evaluation.classification import evaluate
from dat_train.evaluation.detection import evaluate_detection
from dat_train.evaluation.multilabel import evaluate_multilabel
from dat_train.evaluation.segmentation import evaluate_segmentation
from dat_train.models import count_parameters
from dat_train.runtime.batch_feed import feed_once
from dat_train.runtime.precision import Precision
from dat_train.runtime.processes import Processes
from dat_train.runtime.terminal import Terminal, duration
from dat_train.settings import Settings
from dat_train.training.summary import table

PROGRESS_SECONDS = 30.0  # between progress lines where the output is no terminal
MAX_NAMED_FILES = 5  # unreadable images on the terminal; result.json has all
FILES = ("result.json", "per_class.csv", "confused.csv", "wrong.csv", "wrong.png")
FILES_OF_SCENES = ("confusion.csv", "confusion.png", "worst.png", "detections.json", "detections.png")


def run_evaluation(
    settings: Settings,
    val_set: Dataset,
    model: nn.Module,
    *,
    precision: Precision,
    processes: Processes,
    terminal: Terminal,
    text: str = "evaluating",
) -> tuple[Any, float]:
    """Evaluate a model on its validation set.

    Args:
        text: text of the progress bar.

    Returns:
        The evaluation of the task, whose attribute `Score.name` is the score, and the seconds it took.

    Raises:
        UserError: no batch arrives within settings.timeout_minutes, or no image can be read.
    """
    loader = evaluation_batches(settings, val_set, processes)
    start = time.monotonic()
    batches = _watched(loader, terminal, text, settings.timeout_minutes)
    options: dict[str, Any] = {"precision": precision, "processes": processes}
    match settings.get("task", "classification"):
        case "classification":
            options |= {"num_classes": len(val_set.classes), "subset": val_set.subset, "valid_labels": val_set.right}
            found = evaluate(model, batches, **options)
        case "multilabel":
            found = evaluate_multilabel(model, batches, **options)
        case "segmentation":
            options |= {"num_classes": len(val_set.classes), "flip": bool(settings.dense.flip)}
            found = evaluate_segmentation(model, batches, **options)
        case "detection":
            found = evaluate_detection(model, batches, classes=val_set.classes, **options)
    return found, time.monotonic() - start


def _watched(loader: Sequence[Batch], terminal: Terminal, text: str, timeout_minutes: float) -> Iterator[Batch]:
    """Yield the batches of `loader` and print the progress."""
    start = time.monotonic()
    next_line = start + PROGRESS_SECONDS
    for done, batch in enumerate(feed_once(loader, terminal.warn, timeout_minutes=timeout_minutes)):
        terminal.progress(done, len(loader), text)
        if not terminal.live and (now := time.monotonic()) > next_line and done:
            left = (now - start) / done * (len(loader) - done)
            terminal.say(f"batch {done:,}/{len(loader):,}   ETA {duration(left)}")
            next_line = now + PROGRESS_SECONDS
        yield batch


def common_facts(trained: TrainedModel, number: int, processes: Processes, seconds: float) -> dict[str, Any]:
    """Entries of result.json that do not depend on the task.

    Args:
        number: images.
    """
    return {
        "parameters": count_parameters(trained.model),
        "checkpoint": str(trained.weights.path),
        "weights": trained.weights.source,
        "data": trained.settings.data.name,
        "data_root": trained.settings.data.root,
        "dtype": trained.precision.name,
        "device": trained.precision.device.type,
        "processes": processes.world_size,
        "seconds": round(seconds, 3),
        "images_per_second": round(number / seconds, 2),
    }


def result_topics(
    facts: dict[str, Any], trained: TrainedModel, val_set: Dataset, unreadable: Sequence[str]
) -> list[tuple[str, str]]:
    """(topic, text) pairs that do not depend on the task.

    Args:
        facts: entries of result.json.
    """
    topics = [
        ("weights", f"{facts['checkpoint']} ({facts['weights']})"),
        *(("", note) for note in trained.weights.notes),
        ("model", f"{facts['model']}, {facts['parameters'] / 1e6:.2f} M parameters"),
        ("data", f"{facts['data']}, {facts['data_root'] or 'made on the fly'}"),
        *(("", note) for note in getattr(val_set, "notes", ())),
        ("device", f"{facts['device']}, {facts['dtype']}, {facts['images_per_second']:,.0f} images/s"),
    ]
    if unreadable:
        count = len(unreadable)
        topics.append(("unreadable", f"{count:,} image{'s' * (count > 1)}, left out of all numbers:"))
        topics += [("", path) for path in unreadable[:MAX_NAMED_FILES]]
        if count > MAX_NAMED_FILES:
            topics.append(("", "..."))
    return topics


def print_result(terminal: Terminal, topics: Sequence[tuple[str, str]], text: str, output: Path) -> None:
    """Print the surroundings of an evaluation, its result, and the files in `output`."""
    names = [name for name in (*FILES, *FILES_OF_SCENES) if (output / name).exists()]
    terminal.say(table(topics))
    terminal.say(f"\n{text}\n")
    terminal.say(f"in {output}: {', '.join(names)}")
