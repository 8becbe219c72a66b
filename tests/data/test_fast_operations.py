"""Fast shears, translations and sharpness equal timm's with Pillow."""

import numpy as np
import pytest
from data.files import photo
from PIL import Image
from timm.data import auto_augment

from dat_train.data import fast_operations
from dat_train.data.augment import train_transform

CUBIC = {"fillcolor": (124, 116, 104), "resample": Image.Resampling.BICUBIC}
SIZES = [(224, 224), (61, 37), (8, 8), (5, 3)]
OPERATIONS = {
    "shear_x": (-0.3, -0.27, 0.0, 0.123, 0.3),
    "shear_y": (-0.3, -0.27, 0.0, 0.123, 0.3),
    "translate_x_rel": (-0.45, 0.0, 0.25, 0.405),
    "translate_y_rel": (-0.45, 0.0, 0.25, 0.405),
    "translate_x_abs": (-100.8, -3, 0.4, 500),
    "translate_y_abs": (-100.8, -3, 0.4, 500),
    "sharpness": (0.1, 0.5, 1.0, 1.9),
}


def pixels(image):
    return np.asarray(image).astype(int)


def images(width, height):
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return [photo(width, height), Image.fromarray(noise), Image.new("RGB", (width, height), (255, 0, 7))]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_equals_timms_up_to_rounding(name, size):
    options = {} if name == "sharpness" else CUBIC
    different = []
    for image in images(*size):
        for argument in OPERATIONS[name]:
            expected = getattr(auto_augment, name)(image, argument, **options)
            found = getattr(fast_operations, name)(image, argument, **options)
            assert found.mode == "RGB" and found.size == image.size
            difference = np.abs(pixels(found) - pixels(expected))
            assert difference.max() <= 1
            different.append((difference > 0).mean())
    assert np.mean(different) < 2e-3


@pytest.mark.parametrize("name", ["shear_x", "shear_y", "translate_x_rel", "translate_y_rel"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_other_modes_and_interpolations_are_timms(name, mode):
    image = photo(40, 30).convert(mode)
    resample = Image.Resampling.BILINEAR if mode == "RGB" else Image.Resampling.BICUBIC
    options = {"fillcolor": (1, 2, 3) if mode == "RGB" else 1, "resample": resample}
    found = getattr(fast_operations, name)(image, 0.2, **options)
    assert np.array_equal(pixels(found), pixels(getattr(auto_augment, name)(image, 0.2, **options)))


def test_the_recipe_of_deit_uses_them():
    transform = train_transform(32, rand_augment="rand-m9-mstd0.5-inc1", mean=(0.5,) * 3, std=(0.5,) * 3)
    own = {step.name for step in transform.operations[0].ops if step.aug_fn in fast_operations.FAST_OPERATIONS.values()}
    assert own == {"ShearX", "ShearY", "TranslateXRel", "TranslateYRel", "SharpnessIncreasing"}
