"""Augmentation with timm's operations on a real photograph; the two ways to resize in evaluation."""

import numpy as np
import pytest
import torch
from data.files import photo
from PIL import Image
from timm.data.auto_augment import AugMixAugment, AutoAugment, RandAugment
from torchvision import transforms

from dat_train.data import augment
from dat_train.data.augment import eval_transform, train_transform
from dat_train.data.batch import Batch, prepare_images
from dat_train.data.randomness import keyed_randomness
from dat_train.errors import UserError

NORM = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
RAW = {"mean": (0.0,) * 3, "std": (1.0,) * 3}
DEIT = {"rand_augment": "rand-m9-mstd0.5-inc1", "color_jitter": 0.4, "random_erasing": 0.25}


@pytest.fixture(scope="module")
def picture():
    return photo(96, 64)


def kinds(transform):
    return [type(step).__name__ for step in (transform.crop, *transform.flips, *transform.operations)]


def operations(transform):
    for step in transform.operations:
        if isinstance(step, RandAugment | AugMixAugment):
            yield from step.ops
        if isinstance(step, AutoAugment):
            yield from (operation for pair in step.policy for operation in pair)


def prepared(transform, image):
    """The image as a model gets it."""
    augmented = transform(image)
    rectangles = torch.tensor([augmented.rectangle])
    further = {"normalization": transform.normalization, "erasing": rectangles}
    batch = Batch(augmented.image[None], torch.zeros(1), torch.zeros(1), [], **further)
    return prepare_images(batch)[0]


# Training


def test_the_recipe_of_deit_has_timms_steps_and_numbers():
    transform = train_transform(224, **DEIT, **NORM)
    assert kinds(transform) == ["RandomResizedCrop", "RandomHorizontalFlip", "RandAugment"]
    crop, (flip,), (policy,) = transform.crop, transform.flips, transform.operations
    assert (crop.size, crop.scale, crop.ratio, crop.interpolation) == (224, (0.08, 1.0), (3 / 4, 4 / 3), "bicubic")
    assert flip.p == 0.5
    assert policy.num_layers == 2 and len(policy.ops) == 15
    assert {(operation.magnitude, operation.magnitude_std) for operation in policy.ops} == {(9, 0.5)}
    torch.testing.assert_close(transform.normalization, torch.tensor([NORM["mean"], NORM["std"]]))
    assert transform.random_erasing == 0.25


def test_color_jitter_applies_without_a_policy_or_with_three_augment():
    assert "ColorJitter" in kinds(train_transform(32, color_jitter=0.4, **NORM))
    assert "ColorJitter" not in kinds(train_transform(32, **DEIT, **NORM))
    assert kinds(train_transform(32, rand_augment="3a", color_jitter=0.3, **NORM))[-2:] == [
        "AutoAugment",
        "ColorJitter",
    ]


def test_three_augment_is_one_of_grayscale_solarization_and_blur(picture):
    transform = train_transform(48, scale=None, hflip=0, rand_augment="3a", **RAW)
    plain = train_transform(48, scale=None, hflip=0, **RAW)(picture).image.int()
    found = set()
    for i in range(40):
        with keyed_randomness("three", i):
            image = transform(picture).image.int()
        if (image == image[:1]).all():
            found.add("grayscale")
        elif ((image == plain) | (image == 255 - plain)).all():
            found.add("solarization")
        else:
            found.add("blur")
            assert (image - plain).abs().float().mean() < 20
    assert found == {"grayscale", "solarization", "blur"}


def test_steps_with_probability_zero_are_left_out():
    transform = train_transform(32, hflip=0, **RAW)
    assert kinds(transform) == ["RandomResizedCrop"] and not transform.random_erasing


def test_images_are_8_bits_and_normalized_on_the_device(picture):
    transform = train_transform(32, scale=None, hflip=0, **NORM)
    assert transform(picture).image.shape == (3, 32, 32) and transform(picture).image.dtype == torch.uint8
    resized = picture.resize((32, 32), Image.Resampling.BICUBIC)
    expected = transforms.Compose([transforms.ToTensor(), transforms.Normalize(**NORM)])(resized)
    assert torch.equal(prepared(transform, picture), expected)  # bit by bit


def test_without_a_scale_the_whole_image_is_seen_as_in_validation(picture):
    whole = train_transform(48, scale=None, hflip=0, **NORM)
    validation = eval_transform(48, resize="squash", crop_pct=1.0, **NORM)
    assert torch.equal(prepared(whole, picture), validation(picture))


def test_one_channel_is_pillows_grayscale(picture):
    transform = train_transform(48, scale=None, hflip=0, mean=(0.5,), std=(0.25,))
    gray = np.asarray(picture.resize((48, 48), Image.Resampling.BICUBIC).convert("L"))
    assert transform(picture).image.shape == (1, 48, 48)
    assert np.array_equal(transform(picture).image[0].numpy(), gray)
    assert prepared(transform, picture).shape == (1, 48, 48)


@pytest.mark.parametrize("policy", ["rand-m9-mstd0.5-inc1", "rand-m10-mstd2-inc1", "v0-mstd0.5", "augmix-m9-mstd1"])
def test_posterize_leaves_a_bit_at_every_level(policy, picture):
    posterizes = [
        operation
        for operation in operations(train_transform(32, rand_augment=policy, **NORM))
        if operation.name.startswith("Posterize")
    ]
    assert posterizes
    for operation in posterizes:
        reached = [operation.level_fn(level, operation.hparams)[0] for level in np.linspace(0, 10, 101)]
        assert min(reached) >= 1 and max(reached) <= 8
        for level in np.linspace(0, 10, 11):
            image = operation.aug_fn(picture, *operation.level_fn(level, operation.hparams))
            assert np.asarray(image).any()  # not black


def test_timms_posterize_may_keep_no_bit():
    # if this fails, timm has fixed it and `_at_least_one_bit` in data/augment.py can go
    from timm.data.auto_augment import rand_augment_transform

    policy = rand_augment_transform("rand-m9-mstd0.5-inc1", {})
    (posterize,) = [operation for operation in policy.ops if operation.name.startswith("Posterize")]
    assert posterize.level_fn(10, posterize.hparams)[0] == 0


def test_a_thousand_draws_of_the_recipe_raise_nothing_and_are_finite(picture):
    transform = train_transform(16, **DEIT, **NORM)
    for i in range(1000):
        with keyed_randomness("draw", i):
            assert prepared(transform, picture).isfinite().all()


@pytest.mark.parametrize("policy", ["foo", "rand-m9-w9", "v7"])
def test_an_unknown_policy_is_one_line(policy):
    with pytest.raises(UserError) as caught:
        train_transform(32, rand_augment=policy, **NORM)
    text = str(caught.value)
    assert text.startswith(f"augment.rand_augment={policy} is not a policy of timm: ") and "\n" not in text


def test_transforms_go_to_workers_that_are_not_forked(picture):
    import pickle

    transform = train_transform(32, **DEIT, **NORM)
    there = pickle.loads(pickle.dumps(transform))
    for step in (transform, there):
        with keyed_randomness("any"):
            last = prepared(step, picture)
    with keyed_randomness("any"):
        assert torch.equal(prepared(transform, picture), last)


# Evaluation


def bars(width, height):
    """An image whose red is its column and green its row, from 0 to 1."""
    columns, rows = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([columns, rows, 0 * rows], axis=-1).round().astype(np.uint8))


@pytest.mark.parametrize(
    ("resize", "columns", "rows"),
    [
        # 400 x 200 -> 512 x 256, of which 224 x 224: 224/512 of the width, 224/256 of the height
        ("short_side", 224 / 512, 224 / 256),
        # -> 256 x 256, of which 224 x 224: 7/8 of both
        ("squash", 224 / 256, 224 / 256),
    ],
)
def test_the_two_ways_to_resize_see_another_part_of_the_image(resize, columns, rows):
    image = eval_transform(224, resize=resize, crop_pct=0.875, **RAW)(bars(400, 200))
    assert image.shape == (3, 224, 224)
    red, green = image[0, 112], image[1, :, 112]
    assert (red[-1] - red[0]).item() == pytest.approx(columns, abs=0.01)
    assert (green[-1] - green[0]).item() == pytest.approx(rows, abs=0.01)
    assert (red[0] + red[-1]).item() == pytest.approx(1, abs=0.01)  # the center


@pytest.mark.parametrize(
    ("size", "crop_pct", "side"),
    [(224, 0.875, 256), (384, 384 / 438, 438), (384, 0.877, 437), (32, 1.0, 32), (224, 0.9, 248)],
)
def test_the_side_before_the_crop(size, crop_pct, side):
    assert eval_transform(size, resize="squash", crop_pct=crop_pct, **NORM).resize.size == (side, side)
    assert eval_transform(size, crop_pct=crop_pct, **NORM).resize.size == side


def test_short_side_is_timms_evaluation(picture):
    from timm.data import create_transform

    timms = create_transform(48, crop_pct=0.875, interpolation="bicubic", crop_mode="center", **NORM)
    torch.testing.assert_close(eval_transform(48, **NORM)(picture), timms(picture))


def test_an_unknown_resize_is_one_line():
    with pytest.raises(UserError, match=r"eval\.resize=stretch must be one of short_side, squash"):
        eval_transform(32, resize="stretch", **NORM)


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_of_a_long_image_only_the_visible_part_is_resized_with_the_same_result(interpolation, monkeypatch):
    photos = [photo(640, 37), photo(29, 640), photo(300, 200)]
    transform = eval_transform(32, interpolation=interpolation, **RAW)
    whole = [transform(image) for image in photos]
    monkeypatch.setattr(augment, "MAX_RESIZED_PIXELS", 0)
    for image, expected in zip(photos, whole, strict=True):
        assert ((transform(image) - expected).abs() * 255).max() <= 1.01


@pytest.mark.parametrize("size", [(60_000, 1), (1, 60_000)])
@pytest.mark.parametrize("resize", ["short_side", "squash"])
def test_a_long_image_takes_little_memory(size, resize):
    line = Image.new("RGB", size, (255, 0, 0))
    image = eval_transform(224, resize=resize, **RAW)(line)
    assert image.shape == (3, 224, 224) and (image[0] == 1).all() and (image[1:] == 0).all()
    for scale in ((0.08, 1.0), None):
        assert train_transform(224, scale=scale, **RAW)(line).image.shape == (3, 224, 224)
