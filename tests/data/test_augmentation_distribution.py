"""The pictures of the training transform are distributed as those of timm's pipeline."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from timm.data import create_transform

from dat_train.data.augment import keep_posterize_bits, train_transform
from dat_train.data.batch import Batch, prepare_images
from dat_train.data.images import read_rgb
from dat_train.data.randomness import keyed_randomness

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CROP = {"scale": (0.08, 1.0), "ratio": (3 / 4, 4 / 3), "interpolation": "bicubic", "hflip": 0.5, "vflip": 0.0}
RECIPES = {
    "deit": {"rand_augment": "rand-m9-mstd0.5-inc1", "color_jitter": 0.4},
    "three": {"rand_augment": "3a", "color_jitter": 0.3},
    "light": {"rand_augment": None, "color_jitter": 0.0},
}
SIZE = 64


@pytest.fixture(scope="module")
def photos():
    """The two photographs of scikit-learn as JPEG files of 500 x 375 and 1600 x 1200 pixels."""
    files = []
    for pixels in load_sample_images().images:
        for size in ((500, 375), (1600, 1200)):
            buffer = io.BytesIO()
            Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS).save(buffer, "JPEG", quality=90)
            files.append(buffer.getvalue())
    return files


def timms_transform(rand_augment, color_jitter, **settings):
    transform = create_transform(
        SIZE, is_training=True, auto_augment=rand_augment, color_jitter=color_jitter or None, mean=MEAN, std=STD,
        **CROP, **settings,
    )  # fmt: skip
    for step in transform.transforms:
        keep_posterize_bits(step)
    return transform


def histogram(images):
    """(3, 16) shares of the pixels of each channel."""
    return np.stack([np.histogram(images[:, c], 16, (0, 256))[0] for c in range(3)]) / images[:, 0].size


@pytest.mark.long
@pytest.mark.parametrize("recipe", RECIPES)
def test_two_thousand_augmented_images_equal_timms_with_the_same_draws(recipe, photos):
    ours = train_transform(SIZE, mean=MEAN, std=STD, **CROP, **RECIPES[recipe])
    timms = timms_transform(**RECIPES[recipe], use_prefetcher=True)
    decoded = [read_rgb(file) for file in photos]
    found, expected = [], []
    for i in range(2000):
        with keyed_randomness("picture", i):
            found.append(ours(photos[i % len(photos)]).image.numpy())
        with keyed_randomness("picture", i):
            expected.append(np.asarray(timms(decoded[i % len(photos)])))
    found, expected = np.stack(found).astype(int), np.stack(expected).astype(int)
    difference = found - expected
    # Rounding of the resize, and scaled decoding of the large photos; contrast and equalization amplify both.
    assert np.abs(difference).mean() < 1.5
    assert np.abs(difference.mean((0, 2, 3))).max() < 0.1  # of 255, by channel
    assert np.abs(histogram(found) - histogram(expected)).sum(1).max() < 0.01
    assert np.abs(found.std((0, 2, 3)) / expected.std((0, 2, 3)) - 1).max() < 0.01


@pytest.mark.long
def test_other_draws_give_the_same_distribution_with_normalization_and_erasing(photos):
    ours = train_transform(SIZE, mean=MEAN, std=STD, random_erasing=0.25, **CROP, **RECIPES["deit"])
    timms = timms_transform(**RECIPES["deit"], re_prob=0.25, re_mode="pixel")
    decoded = [read_rgb(file) for file in photos]
    found, expected = [], []
    for i in range(2000):
        with keyed_randomness("ours", i):
            image, rectangle = ours(photos[i % len(photos)])
        one = [torch.zeros(1), torch.zeros(1), [], ours.normalization, torch.tensor([rectangle])]
        found.append(prepare_images(Batch(image[None], *one))[0])
        with keyed_randomness("timm", i):
            expected.append(timms(decoded[i % len(photos)]))
    found, expected = torch.stack(found), torch.stack(expected)
    for statistic in (lambda images: images.mean((2, 3)), lambda images: images.std((2, 3))):  # (images, channels)
        one, other = statistic(found), statistic(expected)
        error = (one.var(0) / len(one) + other.var(0) / len(other)).sqrt()
        assert ((one.mean(0) - other.mean(0)).abs() < 4 * error).all()
        assert ((one.std(0) / other.std(0) - 1).abs() < 0.1).all()
