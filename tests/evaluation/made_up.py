"""Evaluation from plain lists."""

import numpy as np

from dat_train.evaluation.classification import ClassificationEvaluation


def made_up(labels, predicted, confidence=None, loss=0.25, unreadable=()) -> ClassificationEvaluation:
    labels, predicted = np.array(labels, dtype=np.int64), np.array(predicted, dtype=np.int64)
    return ClassificationEvaluation(
        top1=100 * float((labels == predicted).mean()),
        top5=100.0,
        loss=loss,
        count=len(labels),
        unreadable=list(unreadable),
        indices=np.arange(len(labels)),
        labels=labels,
        predicted=predicted,
        confidence=np.full(len(labels), 0.5) if confidence is None else np.array(confidence, dtype=np.float64),
    )
