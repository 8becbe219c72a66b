"""Picture of a batch with its labels."""

import numpy as np
import pytest
import torch
from PIL import Image

from dat_train.tasks.batch_picture import CELL, MAX_IMAGES, _fitting, _label, write_batch_picture

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLASSES = ["cat", "dog", "bird", "fish"]


def soft(*shares, smoothing=0.1):
    return torch.tensor(shares) * (1 - smoothing) + smoothing / len(shares)


def normalised(colors, size=40):
    """Normalized images (B, 3, size, size) of one color each, from colors (B, 3) in [0, 1]."""
    images = torch.tensor(colors)[:, :, None, None].expand(-1, -1, size, size)
    return (images - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


def drawn(tmp_path, images, targets, classes=CLASSES):
    path = tmp_path / "new" / "batch.png"
    write_batch_picture(images, targets, classes, path, mean=MEAN, std=STD)
    with Image.open(path) as picture:
        assert picture.format == "PNG" and picture.mode == "RGB"
        return np.asarray(picture)


def test_normalization_is_undone_and_images_are_drawn_in_order(tmp_path):
    colors = [
        [1.0, 0, 0],
        [0, 1, 0],
        [0, 0, 1],
        [1, 1, 0],
        [0, 1, 1],
        [1, 0, 1],
        [0, 0, 0],
        [0.5, 0.5, 0.5],
        [1, 0.5, 0],
    ]
    picture = drawn(tmp_path, normalised(colors), torch.zeros(9, dtype=torch.long))
    assert picture.shape == (2 * (CELL + 44) + 8, 8 * (CELL + 8) + 8, 3)  # eight images in a row
    for i, color in enumerate(colors):
        x, y = 8 + i % 8 * (CELL + 8) + CELL // 2, 8 + i // 8 * (CELL + 44) + CELL // 2
        assert picture[y, x] / 255 == pytest.approx(color, abs=0.01)
    assert (picture[:8] == 255).all()


@pytest.mark.parametrize(("number", "columns", "rows"), [(1, 1, 1), (3, 3, 1), (8, 8, 1), (65, 8, 8)])
def test_the_size_follows_the_number_of_images(number, columns, rows, tmp_path):
    picture = drawn(tmp_path, torch.zeros(number, 3, 8, 8), torch.zeros(number, dtype=torch.long))
    assert picture.shape[:2] == (rows * (CELL + 44) + 8, columns * (CELL + 8) + 8)
    assert number <= MAX_IMAGES or rows * columns == MAX_IMAGES


def test_large_and_16_bit_float_images_are_drawn(tmp_path):
    assert drawn(tmp_path, normalised([[1.0, 0, 0]], size=224).bfloat16(), torch.zeros(1, 4)).shape[1] == CELL + 16


def test_labels_are_drawn_below_the_images(tmp_path):
    images = normalised([[1.0, 1, 1]] * 2)
    one = drawn(tmp_path, images, torch.stack([soft(1.0, 0, 0, 0), soft(0.6, 0.4, 0, 0)]))
    below = one[8 + CELL :, :]
    first, second = below[:, : CELL + 8], below[:, CELL + 12 :]
    assert first[:18].min() < 128 and (first[20:] == 255).all()  # one line
    assert second[:18].min() < 128 and second[20:].min() < 128  # two


@pytest.mark.parametrize(
    ("target", "lines"),
    [
        (torch.tensor(2), ["bird"]),
        (soft(0.0, 1, 0, 0), ["dog"]),
        (soft(0.0, 1, 0, 0, smoothing=0.5), ["dog"]),
        (soft(0.3, 0.7, 0, 0), ["dog  70%", "cat  30%"]),
        (soft(0.3, 0.7, 0, 0, smoothing=0.0), ["dog  70%", "cat  30%"]),
        (soft(0.02, 0.98, 0, 0), ["dog"]),
        (soft(0.0, 1.0), ["dog"]),
        (soft(0.4, 0.6, smoothing=0.0), ["dog  60%", "cat  40%"]),
    ],
)
def test_text_of_hard_smoothed_and_mixed_labels(target, lines):
    assert _label(target, CLASSES) == lines


def test_long_names_are_shortened_to_the_width_of_the_image():
    from PIL import ImageFont

    font = ImageFont.load_default(size=13)
    assert _fitting("cat", font, CELL) == "cat"
    short = _fitting("great gray owl, great gray owl, Strix nebulosa", font, CELL)
    assert short.endswith("…") and CELL - 20 < font.getlength(short) <= CELL
