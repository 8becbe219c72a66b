"""Segmentation sets, their checks, and the augmentation of images with label maps."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import tv_tensors

from dat_train.data.generated.digit_scenes import write_digit_scenes
from dat_train.data.micro_batches import SampleKey
from dat_train.data.scenes.dense_transforms import (
    CropWithClassLimit,
    FitInto,
    PadTo,
    PhotometricDistortion,
    fitted_size,
    segmentation_train_transform,
)
from dat_train.data.scenes.segmentation_dataset import EvaluationImages
from dat_train.data.scenes.segmentation_sources import open_segmentation
from dat_train.errors import UserError

NUMBERS = {"mean": [0.5] * 3, "std": [0.25] * 3}


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    return write_digit_scenes(tmp_path_factory.mktemp("data") / "scenes", train=6, val=3)


def write_ade20k(root, values, mode="L"):
    for part in ("training", "validation"):
        for name in ("images", "annotations"):
            (root / name / part).mkdir(parents=True)
        Image.new("RGB", (40, 30), (90, 120, 60)).save(root / "images" / part / "a.jpg")
        mask = np.resize(np.array(values, np.uint8), (30, 40))
        Image.fromarray(mask).convert(mode).save(root / "annotations" / part / "a.png")
    return root


def test_scenes_follow_from_the_seed_and_have_exact_masks_and_boxes(scenes, tmp_path):
    again = write_digit_scenes(tmp_path / "again", train=6, val=3)
    for path in sorted(scenes.rglob("*.png")):
        assert path.read_bytes() == (again / path.relative_to(scenes)).read_bytes()
    content = json.loads((scenes / "annotations" / "instances_train.json").read_text())
    assert (again / "annotations" / "instances_train.json").read_text() == json.dumps(content)
    for annotation in content["annotations"]:
        labels = np.asarray(Image.open(scenes / "masks" / "train" / f"{annotation['image_id'] - 1:04d}.png"))
        x, y, width, height = annotation["bbox"]
        inside = labels[y : y + height, x : x + width] == annotation["category_id"]
        assert inside[0].any() and inside[-1].any() and inside[:, 0].any() and inside[:, -1].any()
        assert annotation["area"] <= inside.sum()


def test_no_scene_is_in_both_parts(scenes):
    train, val = ({path.read_bytes() for path in (scenes / "images" / part).iterdir()} for part in ("train", "val"))
    assert len(train) == 6 and len(val) == 3 and not train & val


def test_a_folder_of_other_scenes_is_refused(scenes):
    with pytest.raises(UserError, match="name another folder"):
        write_digit_scenes(scenes, train=7, val=3)


def test_ade20k_value_0_is_ignored_exactly_once(tmp_path):
    train, val = open_segmentation("ade20k", str(write_ade20k(tmp_path, [0, 1, 150, 2])))
    labels = train.read_labels(0)
    assert labels.ravel()[:4].tolist() == [255, 0, 149, 1]
    assert len(train.classes) == 150 and train.classes[0] == "wall" and train.classes[149] == "flag"
    assert len(val) == 1


@pytest.mark.parametrize(
    ("values", "mode", "message"),
    [
        ([0, 1, 151], "L", "is 'other' or the background counted as a class"),
        ([0, 1, 255], "L", "already shifted by one"),
        ([0, 1, 200], "L", "the 150 classes have the values 1 to 150"),
        ([0, 1, 2], "RGB", "full ADE20K release"),
    ],
)
def test_mistaken_ade20k_labels_are_answered_with_one_clear_line(tmp_path, values, mode, message):
    with pytest.raises(UserError, match=message) as error:
        open_segmentation("ade20k", str(write_ade20k(tmp_path, values, mode)))
    assert "\n" not in str(error.value) and "a.png" in str(error.value)


def test_own_masks_need_a_class_list_and_a_mask_for_every_image(tmp_path):
    (write_masks(tmp_path) / "classes.txt").unlink()
    with pytest.raises(UserError, match="needs a class list"):
        open_segmentation("masks", str(tmp_path))
    (tmp_path / "classes.txt").write_text("ground\ntree\n")
    train, val = open_segmentation("masks", str(tmp_path), val_fraction=0.25)
    assert (len(train), len(val)) == (3, 1)
    assert set(train.samples) & set(val.samples) == set()
    (tmp_path / "masks" / "2.png").unlink()
    with pytest.raises(UserError, match=r"1 of 4 images have no mask: .*2\.png"):
        open_segmentation("masks", str(tmp_path))


def write_masks(root, number=4, suffix=".png"):
    for name in ("images", "masks"):
        (root / name).mkdir()
    for i in range(number):
        Image.new("RGB", (20, 20)).save(root / "images" / f"{i}.png")
        Image.new("L", (20, 20), i % 2).save(root / "masks" / f"{i}{suffix}")
    (root / "classes.txt").write_text("ground\ntree\n")
    return root


def test_masks_are_found_in_any_case_of_their_suffix_and_files_that_are_not_used_are_said(tmp_path):
    images = write_masks(tmp_path, suffix=".PNG") / "images"
    (images / "more").mkdir()
    (images / "0.npy").touch()
    train, val = open_segmentation("masks", str(tmp_path))
    assert all(len(part.read_both(i)) == 2 for part in (train, val) for i in range(len(part)))
    notes = (f"{images}: files that are not images: 1 (1 .npy)", f"{images}: folders, not used: more")
    assert train.notes == val.notes == EvaluationImages(val, limits=(20, 20), **NUMBERS).notes == notes


def test_the_class_list_is_utf_8_with_a_name_on_each_line(tmp_path):
    path = write_masks(tmp_path) / "classes.txt"
    path.write_bytes("\ufeffground\r\nvélo\r\n\r\n".encode())
    assert open_segmentation("masks", str(tmp_path))[0].classes == ["ground", "vélo"]
    for content, message in [
        ("ground\nvélo\n".encode("latin-1"), r"classes\.txt is not UTF-8 \(.* at byte 8\): save it as UTF-8"),
        (b"ground\n\ntree\n", r"classes\.txt, line 2: no name; each line names the next value of the masks"),
        (b"ground\nground\n", r"has 2 names \(1 different\)"),
    ]:
        path.write_bytes(content)
        with pytest.raises(UserError, match=message):
            open_segmentation("masks", str(tmp_path))


def test_a_mask_of_another_size_is_named(tmp_path):
    root = write_ade20k(tmp_path, [1, 2])
    Image.new("RGB", (41, 30)).save(root / "images" / "training" / "a.jpg")
    with pytest.raises(UserError, match="41 x 30"):
        open_segmentation("ade20k", str(root))


def test_a_sample_follows_from_its_key_alone(scenes):
    train, _ = open_segmentation("masks", str(scenes))
    train.transform = segmentation_train_transform(limits=(128, 96), crop=64, **NUMBERS)
    first, other = train[SampleKey(3, 2, 0)], train[SampleKey(4, 2, 0)]
    torch.manual_seed(99)
    again = train[SampleKey(3, 2, 0)]
    assert torch.equal(first.image, again.image) and torch.equal(first.labels, again.labels)
    assert not torch.equal(first.image, other.image)
    assert first.image.shape == (3, 64, 64) and first.labels.shape == (64, 64) and first.labels.dtype == torch.int64


@pytest.mark.parametrize("kind", ["images", "masks"])
def test_an_unreadable_image_or_mask_is_replaced_in_training_and_empty_in_evaluation(kind, tmp_path):
    root = write_digit_scenes(tmp_path / "scenes", train=3, val=1)
    damaged = root / kind / "train" / "0001.png"
    damaged.write_bytes(b"no image")
    train, _ = open_segmentation("masks", str(root))
    train.transform = segmentation_train_transform(limits=(128, 96), crop=64, **NUMBERS)
    scene = train[SampleKey(0, 1, 0)]
    assert scene.index == 2 and scene.unreadable == (str(damaged),)
    scene = EvaluationImages(train, limits=(128, 96), **NUMBERS)[SampleKey(0, 1, 0)]
    assert scene.index == 1 and scene.unreadable == (str(damaged),) and not scene.views
    for path in damaged.parent.iterdir():
        path.write_bytes(b"no image")
    with pytest.raises(UserError, match="3 consecutive images cannot be read, beginning with"):
        train[SampleKey(0, 1, 0)]


def test_augmented_labels_lie_on_the_augmented_image(tmp_path):
    for part in ("train", "val"):
        for name in ("images", "masks"):
            (tmp_path / name / part).mkdir(parents=True)
        labels = np.random.default_rng(0).integers(0, 6, (12, 16)).astype(np.uint8).repeat(8, 0).repeat(8, 1)
        Image.fromarray(labels).save(tmp_path / "masks" / part / "a.png")
        Image.fromarray((labels * 40)[..., None].repeat(3, 2)).save(tmp_path / "images" / part / "a.png")
    (tmp_path / "classes.txt").write_text("a\nb\nc\nd\ne\nf\n")
    train, _ = open_segmentation("masks", str(tmp_path))
    train.transform = segmentation_train_transform(
        limits=(128, 96), ratio=(0.5, 2.0), crop=96, hflip=0.5, photometric=False, mean=[0.0] * 3, std=[1.0] * 3
    )
    crops = set()
    for epoch in range(20):
        scene = train[SampleKey(epoch, 0, 0)]
        assert scene.image.max() <= 1  # scaled once
        valid = scene.labels != 255
        shown = scene.image[0] * 255 / 40  # the label of every pixel, as drawn in the image
        wrong = (shown[valid] - scene.labels[valid]).abs() > 0.5
        assert wrong.float().mean() < 0.3  # interpolation at the edges of the 8 x 8 blocks, 4 x 4 at ratio 0.5
        crops.add(scene.labels.numpy().tobytes())
    assert len(crops) == 20


def test_the_crop_avoids_one_class_filling_it():
    mask = torch.zeros(200, 200, dtype=torch.uint8)
    mask[:, 150:] = 1
    mask[:, 190:] = 255
    image = tv_tensors.Image(torch.zeros(3, 200, 200, dtype=torch.uint8))
    torch.manual_seed(0)
    good = 0
    for _ in range(50):
        _, cropped = CropWithClassLimit(60)(image, tv_tensors.Mask(mask))
        counts = torch.bincount(cropped.flatten().long(), minlength=256)[:255]
        good += bool((counts > 0).sum() > 1 and counts.max() < 0.75 * counts.sum())
    assert good >= 35  # of 50; one draw is good in about a sixth of the cases


def test_resizing_keeps_the_aspect_ratio_and_rounds_to_the_nearest_pixel():
    assert fitted_size((480, 640), (2048, 512)) == (512, 683)
    assert fitted_size((300, 2000), (2048, 512)) == (307, 2048)
    image = tv_tensors.Image(torch.zeros(3, 30, 40, dtype=torch.uint8))
    labels = tv_tensors.Mask(torch.randint(0, 3, (30, 40), dtype=torch.uint8))
    resized, mask = FitInto((80, 60))(image, labels)
    assert resized.shape == (3, 60, 80) and set(mask.unique().tolist()) <= {0, 1, 2}


def test_padding_is_0_in_the_image_and_255_in_the_labels():
    image = tv_tensors.Image(torch.ones(3, 5, 7))
    padded, mask = PadTo(8)(image, tv_tensors.Mask(torch.ones(5, 7, dtype=torch.uint8)))
    assert padded.shape == (3, 8, 8) and padded[:, 5:].eq(0).all() and padded[:, :, 7:].eq(0).all()
    assert mask[5:].eq(255).all() and mask[:, 7:].eq(255).all() and mask[:5, :7].eq(1).all()


def test_colors_change_and_labels_do_not():
    image = tv_tensors.Image(torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8))
    mask = tv_tensors.Mask(torch.randint(0, 5, (32, 32), dtype=torch.uint8))
    torch.manual_seed(1)
    changed = 0
    for _ in range(10):
        picture, labels = PhotometricDistortion()(image, mask)
        assert torch.equal(labels, mask) and picture.dtype == torch.uint8
        changed += not torch.equal(picture, image)
    assert changed >= 8


def test_evaluation_gives_every_scale_and_the_labels_at_original_size(scenes):
    _, val = open_segmentation("masks", str(scenes))
    images = EvaluationImages(val, limits=(256, 192), scales=(0.5, 1.0), **NUMBERS)
    scene = images[SampleKey(0, 0, 0)]
    height, width = scene.labels.shape
    assert [tuple(view.shape[1:]) for view in scene.views] == [(height, width), (2 * height, 2 * width)]
