"""Result files of a multi-label evaluation: metrics, average precision of each class, images with wrong labels."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.cells import set_cell_size

from dat_train.atomic import write_csv, write_json
from dat_train.evaluation.multilabel import THRESHOLD, MultiLabelEvaluation
from dat_train.runtime.display_text import one_line

NAME_WIDTH = 24  # columns of a class name on the terminal
MAX_WORST = 5  # printed classes; per_class.csv has all


def write_multilabel_report(
    evaluation: MultiLabelEvaluation,
    classes: Sequence[str],
    samples: Sequence[tuple[str, int]],
    folder: Path,
    metadata: dict | None = None,
) -> dict:
    """Write result.json, per_class.csv and wrong.csv into `folder`.

    Args:
        classes: names by class number.
        samples: (path, label) of every image of the data set, by index; the label is not used.
        metadata: further entries of result.json (model, checkpoint, ...).

    Returns:
        The content of result.json.

    Raises:
        OSError: the folder is not writable.
    """
    folder.mkdir(parents=True, exist_ok=True)
    numbers = {"map": evaluation.map, "f1": evaluation.f1, "macro_f1": evaluation.macro_f1, "loss": evaluation.loss}
    result = {name: value if math.isfinite(value) else None for name, value in numbers.items()}  # JSON has no NaN
    result |= {"threshold": THRESHOLD, "images": evaluation.count, "unreadable": evaluation.unreadable} | (
        metadata or {}
    )
    head = ("index", "name", "images", "ap", "precision", "recall", "f1")
    write_csv(folder / "per_class.csv", head, per_class(evaluation, classes))
    rows = wrong_labels(evaluation, classes, samples)
    write_csv(folder / "wrong.csv", ("path", "true", "predicted", "confidence"), rows)
    write_json(folder / "result.json", result)  # last: a folder with result.json is complete
    return result


def per_class(evaluation: MultiLabelEvaluation, classes: Sequence[str]) -> list[tuple]:
    """(class number, name, images, average precision, precision, recall, F1) of every class.

    Values are in percent. They are NaN for a class without images; precision also if the class is never predicted.
    """
    labels, predicted = evaluation.labels, evaluation.predicted
    images, decided, hits = (part.sum(0) for part in (labels, predicted, labels & predicted))
    with np.errstate(invalid="ignore"):  # 0 / 0
        precision, recall = (100 * hits / np.where(images > 0, total, np.nan) for total in (decided, images))
    values = np.stack([evaluation.class_ap, precision, recall, evaluation.class_f1], axis=1).tolist()
    return [(k, name, int(images[k]), *values[k]) for k, name in enumerate(classes)]


def wrong_labels(
    evaluation: MultiLabelEvaluation, classes: Sequence[str], samples: Sequence[tuple[str, int]]
) -> list[tuple[str, str, str, float]]:
    """(path, true, predicted, confidence in percent) of every wrong decision, most confident first.

    One of true and predicted is a class name, the other "not NAME". A decision with high confidence often points to an
    error in the labels. The confidence is 0 if the logit is NaN.
    """
    images, numbers = np.nonzero(evaluation.labels != evaluation.predicted)
    probabilities = evaluation.probabilities[images, numbers]
    confidence = 100 * np.nan_to_num(np.maximum(probabilities, 1 - probabilities))
    rows = []
    for k in np.argsort(-confidence, kind="stable"):
        name = classes[numbers[k]]
        names = (name, f"not {name}") if evaluation.labels[images[k], numbers[k]] else (f"not {name}", name)
        rows.append((samples[evaluation.indices[images[k]]][0], *names, float(confidence[k])))
    return rows


def multilabel_text(evaluation: MultiLabelEvaluation, classes: Sequence[str]) -> str:
    """Metrics and the classes with the lowest average precision as lines for the terminal."""
    lines = [
        f"mAP {evaluation.map:.2f} %   F1 {evaluation.f1:.2f} % (macro {evaluation.macro_f1:.2f} %)   "
        f"loss {evaluation.loss:.4f}   {evaluation.count:,} images"
    ]
    order = [k for k in np.argsort(evaluation.class_ap, kind="stable") if not np.isnan(evaluation.class_ap[k])]
    if order:
        title = "class" if len(order) <= MAX_WORST else f"lowest of {len(order):,}"
        lines += ["", f"{title:<{NAME_WIDTH}}   images         AP         F1"]
    for k in order[:MAX_WORST]:
        name = set_cell_size(one_line(classes[k], NAME_WIDTH), NAME_WIDTH)
        ap, f1 = (f"{values[k]:.1f} %" for values in (evaluation.class_ap, evaluation.class_f1))
        lines.append(f"{name}   {int(evaluation.labels[:, k].sum()):>6,}   {ap:>8}   {f1:>8}")
    return "\n".join(lines)
