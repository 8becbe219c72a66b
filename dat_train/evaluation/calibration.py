"""Whether a model is right as often as it says (Guo et al., ICML 2017)."""

import numpy as np

from dat_train.evaluation.metrics import Evaluation

BINS = 15


def reliability(evaluation: Evaluation, bins: int = BINS) -> list[dict]:
    """For each of `bins` equal intervals (low, high] of confidence: images, mean confidence, accuracy, both in [0, 1].

    Confidence and accuracy are None where an interval has no image. Images without a decision (NaN) are in none.
    """
    confidence = evaluation.confidence
    right = evaluation.predicted == evaluation.labels
    number = np.ceil(confidence * bins)  # of the interval, from 1; NaN stays NaN
    rows = []
    for n in range(1, bins + 1):
        inside = (number == n) | ((number == 0) & (n == 1))
        count = int(inside.sum())
        rows.append(
            {
                "low": round((n - 1) / bins, 6),
                "high": round(n / bins, 6),
                "images": count,
                "confidence": float(confidence[inside].mean()) if count else None,
                "accuracy": float(right[inside].mean()) if count else None,
            }
        )
    return rows


def calibration_error(evaluation: Evaluation, bins: int = BINS) -> float | None:
    """Expected calibration error: the mean distance of confidence and accuracy, weighted by images, in percent.

    None where no image has a decision.
    """
    rows = [row for row in reliability(evaluation, bins) if row["images"]]
    count = sum(row["images"] for row in rows)
    if not count:
        return None
    return 100 * sum(row["images"] * abs(row["confidence"] - row["accuracy"]) for row in rows) / count
