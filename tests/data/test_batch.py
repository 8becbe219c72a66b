"""Preparation of a batch on the device: normalization and random erasing."""

import random

import numpy as np
import pytest
import torch
from timm.data.random_erasing import RandomErasing
from torchvision import transforms

from dat_train.data.batch import Batch, normalize, prepare_images
from dat_train.data.erasing import Rectangle, draw_rectangle, erase_
from dat_train.data.randomness import keyed_randomness

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
NUMBERS = torch.tensor([MEAN, STD])


def every_level(channels=3):
    """(256, channels, 4, 4) with all 8-bit values."""
    return torch.arange(256, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, channels, 4, 4).contiguous()


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_normalization_equals_torchvisions_bit_by_bit(layout):
    images = every_level().contiguous(memory_format=layout)
    found = normalize(images, NUMBERS, torch.float32)
    norm = transforms.Normalize(MEAN, STD)
    expected = torch.stack([norm(transforms.functional.to_tensor(i.permute(1, 2, 0).numpy())) for i in images])
    assert torch.equal(found, expected) and found.is_contiguous()


def test_the_type_of_the_result_is_the_asked_one():
    batch = Batch(every_level(1), torch.zeros(256), torch.arange(256), [], torch.tensor([[0.5], [0.25]]))
    exact = prepare_images(batch)
    for dtype in (torch.float64, torch.bfloat16):
        assert torch.equal(prepare_images(batch, "cpu", dtype), exact.to(dtype))


def test_normalized_images_stay_as_they_are():
    images = torch.rand(2, 3, 4, 4)
    assert torch.equal(prepare_images(Batch(images, torch.zeros(2), torch.zeros(2), [])), images)


def test_rectangles_are_distributed_as_timms():
    height, width, number = 40, 60, 4000

    def of_timm():
        image = torch.zeros(1, height, width)
        RandomErasing(0.25, mode="pixel", max_count=1, device="cpu")(image)
        rows, columns = image[0].any(1).nonzero()[:, 0], image[0].any(0).nonzero()[:, 0]
        return (0,) * 4 if not len(rows) else (rows[0], columns[0], len(rows), len(columns))

    random.seed(0)
    torch.manual_seed(0)
    timms = np.array([of_timm() for _ in range(number)], dtype=float)
    random.seed(1)
    ours = np.array([draw_rectangle(0.25, height, width)[1:] for _ in range(number)], dtype=float)
    for values in (timms, ours):
        assert 0.22 < (values[:, 2] > 0).mean() < 0.28
    timms, ours = (values[values[:, 2] > 0] for values in (timms, ours))
    areas = [values[:, 2] * values[:, 3] for values in (timms, ours)]
    aspects = [np.log(values[:, 2] / values[:, 3]) for values in (timms, ours)]
    for one, other in (areas, aspects, (timms[:, 0], ours[:, 0]), (timms[:, 1], ours[:, 1])):
        error = np.sqrt(one.var() / len(one) + other.var() / len(other))
        assert abs(one.mean() - other.mean()) < 4 * error
        assert 0.85 < one.std() / other.std() < 1.15


def test_draws_are_those_of_timm_with_the_same_key():
    for i in range(50):
        image = torch.zeros(1, 32, 32)
        with keyed_randomness("erase", i):
            RandomErasing(0.5, mode="pixel", max_count=1, device="cpu")(image)
        with keyed_randomness("erase", i):
            _, top, left, height, width = draw_rectangle(0.5, 32, 32)
        assert torch.equal(image[0] != 0, erased((top, left, height, width), 32, 32))


def erased(box, height, width):
    top, left, h, w = box
    found = torch.zeros(height, width, dtype=torch.bool)
    found[top : top + h, left : left + w] = True
    return found


def test_noise_fills_the_rectangle_and_depends_on_the_sample_alone():
    rectangles = [Rectangle(), Rectangle(7, 2, 3, 10, 20), Rectangle(8, 0, 0, 32, 16)]
    images = torch.rand(3, 3, 32, 32)
    found = erase_(images.clone(), torch.tensor(rectangles))
    assert torch.equal(found[0], images[0])
    for image, before, rectangle in zip(found, images, rectangles, strict=True):
        inside = erased(rectangle[1:], 32, 32)
        assert torch.equal(image[:, ~inside], before[:, ~inside])
        if inside.any():
            assert image[:, inside].mean().abs() < 0.1 and 0.9 < image[:, inside].std() < 1.1
    # alone, in another order and in another type
    for order in ([1], [2, 1, 0], [2, 2, 1]):
        again = erase_(images[order].clone(), torch.tensor(rectangles)[order])
        assert torch.equal(again, found[order])
    double = erase_(images.double(), torch.tensor(rectangles))
    assert torch.equal(double.float(), found)


@pytest.mark.gpu
def test_a_gpu_normalizes_to_the_same_bits_and_erases_by_sample():
    images = every_level()
    rectangles = torch.zeros(256, 5, dtype=torch.int64)
    batch = Batch(images, torch.zeros(256), torch.arange(256), [], normalization=NUMBERS, erasing=rectangles)
    assert torch.equal(prepare_images(batch, "cuda").cpu(), prepare_images(batch))
    rectangles[5] = torch.tensor(Rectangle(3, 0, 0, 2, 2))
    found = prepare_images(batch, "cuda")
    alone = Batch(images[5:6], torch.zeros(1), torch.zeros(1), [], normalization=NUMBERS, erasing=rectangles[5:6])
    assert torch.equal(prepare_images(alone, "cuda")[0], found[5])
