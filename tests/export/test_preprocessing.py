"""The exported preprocessing gives exactly the tensors of the evaluation transform."""

import json

import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_image
from timm.data import create_transform, resolve_data_config

from dat_train.data.augment import eval_transform
from dat_train.errors import UserError
from dat_train.export.preprocessing import Preprocessing

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
VIEWS = [
    (224, "short_side", 0.875, "bicubic"),
    (384, "squash", 384 / 438, "bicubic"),  # DAT-B's; 384 / (384 / 438) is 437.99 in floating point
    (384, "squash", 1.0, "bilinear"),
    *((size, "short_side", size / side, "nearest") for size, side in [(32, 37), (96, 101), (50, 57)]),
]


@pytest.mark.parametrize("view", VIEWS, ids=lambda view: f"{view[0]}-{view[1]}-{view[2]:.3f}")
def test_the_transform_of_timm_gives_equal_tensors(view):
    size, resize, crop_pct, interpolation = view
    photo = Image.fromarray(load_sample_image("china.jpg"))  # 640 x 427
    steps = Preprocessing(size, resize, crop_pct, interpolation, mean=MEAN, std=STD)
    config = json.loads(json.dumps(steps.as_timm()))  # as config.json keeps it
    theirs = create_transform(**resolve_data_config(pretrained_cfg=config))
    ours = eval_transform(size, resize=resize, crop_pct=crop_pct, interpolation=interpolation, mean=MEAN, std=STD)
    assert torch.equal(theirs(photo), ours(photo))


def test_timm_rounds_every_crop_to_the_same_side():
    for size in (32, 48, 224, 256, 384):
        for side in range(size, 2 * size):
            crop_pct = Preprocessing(size, "squash", size / side, "bicubic", mean=MEAN, std=STD).as_timm()["crop_pct"]
            assert int(size / crop_pct) == side


def test_grayscale_is_in_the_json_and_in_the_transform_of_timm():
    photo = Image.fromarray(load_sample_image("china.jpg"))
    steps = Preprocessing(64, "short_side", 0.9, "bicubic", mean=(0.4,), std=(0.2,))
    assert json.loads(steps.as_json(["a"]))["channels"] == "L" and json.loads(steps.as_json(["a"]))["grayscale"]
    assert json.loads(steps.as_json(["a"]))["input"]["shape"] == ["batch", 1, 64, 64]
    theirs = create_transform(**resolve_data_config(pretrained_cfg=steps.as_timm()))
    ours = eval_transform(64, crop_pct=0.9, mean=(0.4,), std=(0.2,))
    assert ours(photo).shape == (1, 64, 64) and torch.equal(theirs(photo.convert("L")), ours(photo))


@pytest.mark.parametrize("channels", [2, 4, 6])
def test_other_numbers_of_channels_are_refused(channels):
    with pytest.raises(UserError, match=rf"data.mean has {channels} values .* 3 channels \(RGB\) or 1 \(grayscale\)"):
        Preprocessing(64, "short_side", 0.9, "bicubic", mean=(0.5,) * channels, std=(0.2,) * channels)


def test_the_json_names_every_step():
    text = Preprocessing(224, "squash", 0.875, "bicubic", mean=MEAN, std=STD).as_json(["cat", "dög"])
    steps = json.loads(text)
    assert steps["resize"] == {
        "keep_aspect_ratio": False,
        "both_sides": 256,
        "interpolation": "bicubic",
        "antialias": True,
    }
    assert steps["center_crop"] == 224 and steps["classes"] == ["cat", "dög"] and "dög" in text
    assert (
        steps["then_subtract_mean"] == list(MEAN)
        and steps["input"]["shape"] == ["batch", 3, 224, 224]
        and steps["channels"] == "RGB"
    )
