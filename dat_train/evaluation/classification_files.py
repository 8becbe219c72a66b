"""Result files of a classification evaluation: metrics, calibration, accuracy of each class, confusions, mistakes."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.cells import cell_len, set_cell_size

from dat_train.atomic import write_csv, write_json
from dat_train.evaluation.classification import ClassificationEvaluation
from dat_train.evaluation.mistakes_picture import most_confident_mistakes, write_mistakes_picture
from dat_train.runtime.display_text import one_line

NAME_WIDTH = 24  # columns of a class name on the terminal
BINS = 15  # intervals of confidence
MAX_CONFUSIONS = 5  # printed pairs; confused.csv has all


def write_report(
    evaluation: ClassificationEvaluation,
    classes: Sequence[str],
    samples: Sequence[tuple[str, int]],
    folder: Path,
    metadata: dict | None = None,
) -> dict:
    """Write result.json, per_class.csv, confused.csv, wrong.csv and, if there are mistakes, wrong.png into `folder`.

    Args:
        classes: names by class number.
        samples: (path, label) of every image of the data set, by index.
        metadata: further entries of result.json (model, checkpoint, ...).

    Returns:
        The content of result.json.

    Raises:
        OSError: the folder is not writable.
    """
    folder.mkdir(parents=True, exist_ok=True)
    result = {
        "top1": evaluation.top1,
        "top5": evaluation.top5,
        "loss": evaluation.loss if math.isfinite(evaluation.loss) else None,  # JSON has no NaN
        "images": evaluation.count,
        "ece": calibration_error(evaluation),
        "reliability": reliability(evaluation),
        "unreadable": evaluation.unreadable,
    } | (metadata or {})
    columns = ("index", "name", "images", "correct", "top1")
    write_csv(folder / "per_class.csv", columns, per_class(evaluation, classes))
    write_csv(folder / "confused.csv", ("true", "predicted", "count", "share"), confusions(evaluation, classes))
    rows = mistakes(evaluation, classes, samples)
    write_csv(folder / "wrong.csv", ("path", "true", "predicted", "confidence"), rows)
    write_mistakes_picture(evaluation, classes, samples, folder / "wrong.png")
    write_json(folder / "result.json", result)  # last: a folder with result.json is complete
    return result


def per_class(
    evaluation: ClassificationEvaluation, classes: Sequence[str]
) -> list[tuple[int, str, int, int, float | None]]:
    """(class number, name, images, correct, top-1 in percent) of every class; top-1 is None without images."""
    correct = evaluation.labels[evaluation.predicted == evaluation.labels]
    images = np.bincount(evaluation.labels, minlength=len(classes)).tolist()
    hits = np.bincount(correct, minlength=len(classes)).tolist()
    return [
        (number, name, images[number], hits[number], 100 * hits[number] / images[number] if images[number] else None)
        for number, name in enumerate(classes)
    ]


def confusions(evaluation: ClassificationEvaluation, classes: Sequence[str]) -> list[tuple[str, str, int, float]]:
    """(true class, predicted class, count, percent of the true class) of all confusions, most frequent first.

    Equal counts are ordered by percentage (highest first), then by class number.
    """
    wrong = evaluation.predicted != evaluation.labels
    pairs = np.stack([evaluation.labels[wrong], evaluation.predicted[wrong]], axis=1)  # (mistakes, 2)
    pairs, counts = np.unique(pairs, axis=0, return_counts=True)
    images = np.bincount(evaluation.labels, minlength=len(classes))
    rows = [
        (int(true), int(predicted), int(count), 100 * int(count) / int(images[true]))
        for (true, predicted), count in zip(pairs, counts, strict=True)
    ]
    rows.sort(key=lambda row: (-row[2], -row[3], row[0], row[1]))
    return [(classes[true], class_name(classes, predicted), count, share) for true, predicted, count, share in rows]


def mistakes(
    evaluation: ClassificationEvaluation, classes: Sequence[str], samples: Sequence[tuple[str, int]]
) -> list[tuple[str, str, str, float | None]]:
    """(path, true class, predicted class, confidence in percent) of all mistakes, most confident first.

    Without a prediction (NaN), the predicted class is "(NaN)" and the confidence None.
    """
    return [
        (
            samples[evaluation.indices[position]][0],
            classes[evaluation.labels[position]],
            class_name(classes, evaluation.predicted[position]),
            100 * float(evaluation.confidence[position]) if evaluation.predicted[position] >= 0 else None,
        )
        for position in most_confident_mistakes(evaluation, len(evaluation.labels))
    ]


def reliability(evaluation: ClassificationEvaluation, bins: int = BINS) -> list[dict]:
    """Number of images, mean confidence and accuracy in each of `bins` equal intervals (low, high] of confidence.

    Confidence and accuracy are in [0, 1], or None for an empty interval. Images without a prediction (NaN) are left
    out.
    """
    confidence = evaluation.confidence
    correct = evaluation.predicted == evaluation.labels
    interval = np.maximum(np.ceil(confidence * bins), 1)  # counted from 1; NaN stays NaN
    rows = []
    for n in range(1, bins + 1):
        inside = interval == n
        count = int(inside.sum())
        rows.append(
            {
                "low": round((n - 1) / bins, 6),
                "high": round(n / bins, 6),
                "images": count,
                "confidence": float(confidence[inside].mean()) if count else None,
                "accuracy": float(correct[inside].mean()) if count else None,
            }
        )
    return rows


def calibration_error(evaluation: ClassificationEvaluation, bins: int = BINS) -> float | None:
    """Expected calibration error in percent: |confidence - accuracy| of each interval, weighted by its images.

    Returns None if no image has a prediction. Source: Guo et al., ICML 2017.
    """
    rows = [row for row in reliability(evaluation, bins) if row["images"]]
    count = sum(row["images"] for row in rows)
    if not count:
        return None
    return 100 * sum(row["images"] * abs(row["confidence"] - row["accuracy"]) for row in rows) / count


def class_name(classes: Sequence[str], number: int) -> str:
    """Name of a class; "(NaN)" for -1, the prediction from logits that are NaN."""
    return classes[number] if number >= 0 else "(NaN)"


def result_text(evaluation: ClassificationEvaluation, classes: Sequence[str]) -> str:
    """Metrics and the most frequent confusions as lines for the terminal."""
    top = f"top-{min(5, len(classes))}"
    numbers = [f"top-1 {evaluation.top1:.2f} %", f"loss {evaluation.loss:.4f}", f"{evaluation.count:,} images"]
    if len(classes) > 1:
        numbers.insert(1, f"{top} {evaluation.top5:.2f} %")
    lines = ["   ".join(numbers)]
    pairs = confusions(evaluation, classes)
    if pairs:
        shown = [
            (f"{one_line(true, NAME_WIDTH)} -> {one_line(predicted, NAME_WIDTH)}", count, share)
            for true, predicted, count, share in pairs[:MAX_CONFUSIONS]
        ]
        title = "confused" if len(pairs) == len(shown) else f"confused (first {len(shown)} of {len(pairs):,} pairs)"
        width = max(cell_len(name) for name in (title, *(name for name, *_ in shown)))
        lines += ["", f"{title:<{width}}   images   of its class"]
        for name, count, share in shown:
            lines.append(f"{set_cell_size(name, width)}   {count:>6,}   {f'{share:.1f} %':>12}")
    return "\n".join(lines)
