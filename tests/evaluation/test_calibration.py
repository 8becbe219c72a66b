"""Calibration error and reliability diagram."""

import math

import numpy as np
import pytest
from evaluation.made_up import made_up

from dat_train.evaluation.classification_files import calibration_error, reliability


def test_the_error_is_the_weighted_mean_distance_of_the_intervals():
    # (0, 0.5]: two images, confidence 0.45, one right; (0.5, 1]: two images, confidence 0.9, both right
    found = made_up([0, 0, 1, 1], [0, 1, 1, 1], confidence=[0.4, 0.5, 0.8, 1.0])
    low, high = reliability(found, bins=2)
    assert (low["images"], low["confidence"], low["accuracy"]) == (2, pytest.approx(0.45), 0.5)
    assert (high["images"], high["confidence"], high["accuracy"]) == (2, pytest.approx(0.9), 1.0)
    assert calibration_error(found, bins=2) == pytest.approx(100 * (0.5 * 0.05 + 0.5 * 0.1))


def test_a_calibrated_model_has_no_error():
    generator = np.random.default_rng(0)
    confidence = generator.uniform(0.2, 1, 100_000)
    right = generator.uniform(size=len(confidence)) < confidence
    assert calibration_error(made_up(np.zeros(len(right)), np.where(right, 0, 1), confidence)) < 0.6
    assert calibration_error(made_up(np.zeros(len(right)), np.where(right, 0, 1), confidence**3)) > 10


def test_empty_intervals_and_images_without_prediction():
    found = made_up([0, 0], [0, -1], confidence=[0.31, math.nan])
    rows = reliability(found, bins=10)
    assert sum(row["images"] for row in rows) == rows[3]["images"] == 1
    assert rows[0] == {"low": 0.0, "high": 0.1, "images": 0, "confidence": None, "accuracy": None}
    assert calibration_error(made_up([0], [-1], confidence=[math.nan])) is None
