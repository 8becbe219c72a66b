"""Picture of the most confident mistakes."""

import math

import numpy as np
import pytest
from evaluation.made_up import made_up
from PIL import Image

from dat_train.evaluation.mistakes_picture import most_confident_mistakes, write_mistakes_picture

COLORS = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (255, 0, 255)]
LONG = "a name of a class with $money^ and more than twenty letters"


@pytest.fixture
def samples(tmp_path):
    """Five images of one color each; the last one is wide."""
    paths = [tmp_path / f"{i}.png" for i in range(5)]
    for i, path in enumerate(paths):
        Image.new("RGB", (900, 300) if i == 4 else (8, 8), COLORS[i]).save(path)
    return [(str(path), i % 2) for i, path in enumerate(paths)]


def colors_of(path):
    """Number of each color of COLORS in the picture, and its leftmost column."""
    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("RGB"))
    found = {i: np.flatnonzero((pixels == color).all(2).any(0)) for i, color in enumerate(COLORS)}
    return {i: int(columns[0]) for i, columns in found.items() if len(columns)}


def test_mistakes_are_ordered_by_confidence_then_by_the_data_set():
    evaluation = made_up([0] * 6, [1, 1, 0, 1, -1, 1], [0.6, 0.9, 0.99, 0.6, math.nan, 0.7])
    assert most_confident_mistakes(evaluation, 10).tolist() == [1, 5, 0, 3, 4]  # the last one has no prediction
    assert most_confident_mistakes(evaluation, 2).tolist() == [1, 5]


def test_images_are_drawn_from_left_to_right_by_confidence(samples, tmp_path):
    evaluation = made_up([0, 1, 0, 1, 0], [1, 0, 0, 0, 1], [0.6, 0.8, 0.9, 0.7, 0.5])
    assert write_mistakes_picture(evaluation, ["鳥", LONG], samples, tmp_path / "wrong.png")
    places = colors_of(tmp_path / "wrong.png")
    assert sorted(places, key=places.get) == [1, 3, 0, 4]  # 2 was right
    assert not list(tmp_path.glob(".*"))  # no temporary file is left


def test_missing_and_damaged_images_are_left_out(samples, tmp_path):
    (tmp_path / "0.png").unlink()
    (tmp_path / "1.png").write_bytes((tmp_path / "1.png").read_bytes()[:40])
    evaluation = made_up([0, 1, 0, 1, 0], [1, 0, 1, 1, 0])
    assert write_mistakes_picture(evaluation, ["a", "b"], samples, tmp_path / "wrong.png")
    assert list(colors_of(tmp_path / "wrong.png")) == [2]


def test_an_older_picture_is_removed_if_there_is_nothing_to_show(samples, tmp_path):
    (tmp_path / "wrong.png").write_bytes(b"of another model")
    assert not write_mistakes_picture(made_up([0, 1], [0, 1]), ["a", "b"], samples, tmp_path / "wrong.png")
    assert not (tmp_path / "wrong.png").exists()


def test_at_most_the_requested_number_of_images_is_shown(samples, tmp_path):
    evaluation = made_up([0, 1, 0, 1, 0], [1, 0, 1, 0, 1], [0.9, 0.8, 0.7, 0.6, 0.5])
    write_mistakes_picture(evaluation, ["a", "b"], samples, tmp_path / "wrong.png", number=2)
    assert list(colors_of(tmp_path / "wrong.png")) == [0, 1]
