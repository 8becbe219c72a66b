"""Calibration of a classifier: confidence compared with accuracy. Source: Guo et al., ICML 2017."""

import numpy as np

from dat_train.evaluation.classification import Evaluation

BINS = 15


def reliability(evaluation: Evaluation, bins: int = BINS) -> list[dict]:
    """Number of images, mean confidence and accuracy in each of `bins` equal intervals (low, high] of confidence.

    Confidence and accuracy are in [0, 1], or None for an empty interval. Images without a prediction (NaN) are left
    out.
    """
    confidence = evaluation.confidence
    correct = evaluation.predicted == evaluation.labels
    interval = np.ceil(confidence * bins)  # counted from 1; NaN stays NaN
    rows = []
    for n in range(1, bins + 1):
        inside = (interval == n) | ((interval == 0) & (n == 1))
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


def calibration_error(evaluation: Evaluation, bins: int = BINS) -> float | None:
    """Expected calibration error in percent: |confidence - accuracy| of each interval, weighted by its images.

    Returns None if no image has a prediction.
    """
    rows = [row for row in reliability(evaluation, bins) if row["images"]]
    count = sum(row["images"] for row in rows)
    if not count:
        return None
    return 100 * sum(row["images"] * abs(row["confidence"] - row["accuracy"]) for row in rows) / count
