"""Augmentation as timm composes it, on a real photograph; evaluation's two ways to resize, in numbers."""

import numpy as np
import pytest
import torch
from data.files import photo
from PIL import Image
from timm.data.auto_augment import AugMixAugment, AutoAugment, RandAugment
from timm.data.random_erasing import RandomErasing
from torchvision import transforms

from dat_train.data.augment import eval_transform, train_transform
from dat_train.data.randomness import keyed_randomness
from dat_train.errors import UserError

NORM = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
RAW = {"mean": (0.0,) * 3, "std": (1.0,) * 3}
DEIT = {"rand_augment": "rand-m9-mstd0.5-inc1", "color_jitter": 0.4, "random_erasing": 0.25}


@pytest.fixture(scope="module")
def picture():
    return photo(96, 64)


def kinds(transform):
    return [type(step).__name__ for step in transform.transforms]


def operations(transform):
    for step in transform.transforms:
        if isinstance(step, RandAugment | AugMixAugment):
            yield from step.ops
        if isinstance(step, AutoAugment):
            yield from (operation for pair in step.policy for operation in pair)


# Training


def test_the_papers_recipe():
    transform = train_transform(224, **DEIT, **NORM)
    assert kinds(transform) == [
        "RandomResizedCropAndInterpolation",
        "RandomHorizontalFlip",
        "RandAugment",
        "MaybeToTensor",
        "Normalize",
        "RandomErasing",
    ]
    crop, flip, policy, _, normalize, erasing = transform.transforms
    assert (crop.size, crop.scale, crop.ratio) == ((224, 224), (0.08, 1.0), (3 / 4, 4 / 3))
    assert crop.interpolation == transforms.InterpolationMode.BICUBIC
    assert flip.p == 0.5
    assert policy.num_layers == 2 and len(policy.ops) == 15
    assert {(operation.magnitude, operation.magnitude_std) for operation in policy.ops} == {(9, 0.5)}
    assert (tuple(normalize.mean.tolist()), tuple(normalize.std.tolist())) == (
        pytest.approx(NORM["mean"]),
        pytest.approx(NORM["std"]),
    )
    assert isinstance(erasing, RandomErasing)
    assert (erasing.probability, erasing.rand_color, erasing.per_pixel) == (0.25, False, True)


def test_colour_jitter_is_for_where_there_is_no_policy():
    transform = train_transform(32, color_jitter=0.4, **NORM)
    assert "ColorJitter" in kinds(transform) and "RandAugment" not in kinds(transform)


def test_what_is_not_asked_for_is_not_there(picture):
    transform = train_transform(32, hflip=0, **RAW)
    assert kinds(transform) == ["RandomResizedCropAndInterpolation", "MaybeToTensor", "Normalize"]


def test_images_come_normalised(picture):
    transform = train_transform(32, scale=None, hflip=0, **NORM)
    plain = train_transform(32, scale=None, hflip=0, **RAW)(picture)
    mean, std = (torch.tensor(NORM[key]).view(3, 1, 1) for key in ("mean", "std"))
    assert transform(picture).shape == (3, 32, 32) and transform(picture).dtype == torch.float32
    torch.testing.assert_close(transform(picture), (plain - mean) / std)


def test_without_a_scale_the_whole_image_is_seen_as_in_validation(picture):
    whole = train_transform(48, scale=None, hflip=0, **RAW)
    validation = eval_transform(48, resize="squash", crop_pct=1.0, **RAW)
    assert torch.equal(whole(picture), validation(picture))


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


def test_timm_alone_falls_into_that_trap():
    # if this fails, timm mends it by itself and data/augment.py may stop
    from timm.data.auto_augment import rand_augment_transform

    policy = rand_augment_transform("rand-m9-mstd0.5-inc1", {})
    (posterize,) = [operation for operation in policy.ops if operation.name.startswith("Posterize")]
    assert posterize.level_fn(10, posterize.hparams)[0] == 0


def test_a_thousand_draws_of_the_recipe_raise_nothing_and_are_finite(picture):
    transform = train_transform(16, **DEIT, **NORM)
    for i in range(1000):
        with keyed_randomness("draw", i):
            assert transform(picture).isfinite().all()


@pytest.mark.parametrize("policy", ["foo", "rand-m9-w9", "v7"])
def test_a_policy_that_is_none(policy):
    with pytest.raises(UserError) as caught:
        train_transform(32, rand_augment=policy, **NORM)
    text = str(caught.value)
    assert text.startswith(f"augment.rand_augment={policy} is no policy timm knows: ") and "\n" not in text


def test_transforms_go_to_workers_that_are_not_forked(picture):
    import pickle

    transform = train_transform(32, **DEIT, **NORM)
    there = pickle.loads(pickle.dumps(transform))
    for step in (transform, there):
        with keyed_randomness("any"):
            last = step(picture)
    with keyed_randomness("any"):
        assert torch.equal(transform(picture), last)


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
    assert (red[0] + red[-1]).item() == pytest.approx(1, abs=0.01)  # the centre


@pytest.mark.parametrize(
    ("size", "crop_pct", "side"),
    [(224, 0.875, 256), (384, 384 / 438, 438), (384, 0.877, 437), (32, 1.0, 32), (224, 0.9, 248)],
)
def test_the_side_before_the_crop(size, crop_pct, side):
    assert eval_transform(size, resize="squash", crop_pct=crop_pct, **NORM).transforms[0].size == (side, side)
    assert eval_transform(size, crop_pct=crop_pct, **NORM).transforms[0].size == side


def test_short_side_is_timms_evaluation(picture):
    from timm.data import create_transform

    timms = create_transform(48, crop_pct=0.875, interpolation="bicubic", crop_mode="center", **NORM)
    torch.testing.assert_close(eval_transform(48, **NORM)(picture), timms(picture))


def test_another_way_to_resize():
    with pytest.raises(UserError, match=r"eval\.resize=stretch is not possible; one of short_side, squash"):
        eval_transform(32, resize="stretch", **NORM)
