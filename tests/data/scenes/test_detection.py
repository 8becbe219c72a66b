"""Detection sets in the COCO format, their augmentation, and batches of one orientation."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import tv_tensors

from dat_train.data.generated.digit_scenes import write_digit_scenes
from dat_train.data.micro_batches import GroupedSampler, SampleKey
from dat_train.data.scenes.coco import decode_segmentation, open_coco, read_coco, trainable
from dat_train.data.scenes.detection_dataset import (
    DetectionEvalTransform,
    DetectionImages,
    DetectionTrainTransform,
    pad_batch,
)
from dat_train.errors import UserError

NUMBERS = {"mean": [0.5] * 3, "std": [0.25] * 3}
SMALL = DetectionTrainTransform((96, 112), (80, 100), 200, (48, 80))


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    return write_digit_scenes(tmp_path_factory.mktemp("data") / "scenes", train=8, val=3)


def dataset(root, part=0, transform=SMALL, **options) -> DetectionImages:
    folder, file = open_coco("boxes", str(root))[part]
    return DetectionImages(folder, file, trainable(file), transform=transform, **NUMBERS, **options)


def write_boxes(root, annotations, categories, size=(60, 40)):
    for part in ("train", "val"):
        (root / "images" / part).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size).save(root / "images" / part / "a.png")
        (root / "annotations").mkdir(exist_ok=True)
        images = [{"id": 7, "file_name": "a.png", "width": 60, "height": 40}]
        content = {"images": images, "annotations": annotations, "categories": categories}
        (root / "annotations" / f"instances_{part}.json").write_text(json.dumps(content))
    return root


def box(number, category, bbox, **other):
    return {"id": number, "image_id": 7, "category_id": category, "bbox": bbox, "area": bbox[2] * bbox[3]} | other


def test_category_numbers_have_gaps_and_classes_do_not(tmp_path):
    categories = [{"id": 90, "name": "tooth brush"}, {"id": 1, "name": "person"}, {"id": 13, "name": "stop sign"}]
    root = write_boxes(tmp_path, [box(1, 90, [1, 2, 10, 20]), box(2, 13, [5, 5, 8, 8])], categories)
    (_, file), _ = open_coco("boxes", str(root))
    assert file.classes == ["person", "stop sign", "tooth brush"] and file.category_ids == [1, 13, 90]
    objects = file.usable(file.images[0])
    assert objects.labels.tolist() == [2, 1]
    assert objects.boxes.tolist() == [[1, 2, 11, 22], [5, 5, 13, 13]]


def test_crowds_and_degenerate_boxes_are_not_trained_on(tmp_path):
    annotations = [
        box(1, 1, [1, 2, 10, 20], iscrowd=1),
        box(2, 1, [1, 2, 0.5, 20]),
        box(3, 1, [70, 2, 10, 20]),
        box(4, 1, [1, 2, 10, 20], area=0),
    ]
    root = write_boxes(tmp_path, annotations, [{"id": 1, "name": "a"}])
    (_, file), _ = open_coco("boxes", str(root))
    assert len(file.usable(file.images[0]).labels) == 0
    with pytest.raises(UserError, match="has 1 images, none with an object to train on"):
        trainable(file)


def test_a_file_with_a_byte_order_mark_and_empty_areas_is_read(tmp_path):
    record = box(1, 1, [1, 2, 10, 20], area=None, iscrowd=None)
    path = write_boxes(tmp_path, [record], [{"id": 1, "name": "a"}]) / "annotations/instances_train.json"
    path.write_text(path.read_text(), encoding="utf-8-sig")
    file = read_coco(path)
    assert len(file.usable(file.images[0]).labels) == 1
    assert [(truth["area"], truth["iscrowd"]) for truth in file.truth(file.images[0])] == [(200, 0)]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"area": "200"}, "annotation 1 has area '200': it must be a number; remove the key if it is unknown"),
        ({"area": float("nan")}, "annotation 1 has area nan: it must be a number"),
        ({"segmentation": {"counts": [2500, -100], "size": [40, 60]}}, "annotation 1 has run lengths that are not who"),
        (
            {"segmentation": {"counts": [2300.0, 100], "size": [40, 60]}},
            "annotation 1 has run lengths that are not who",
        ),
    ],
)
def test_mistaken_objects_are_answered_with_one_line(tmp_path, wrong, message):
    root = write_boxes(tmp_path, [box(1, 1, [1, 2, 10, 20], **wrong)], [{"id": 1, "name": "a"}])
    with pytest.raises(UserError, match=message):
        read_coco(root / "annotations/instances_train.json").check_masks(training=True)


def test_an_image_of_another_size_than_its_record_is_named(tmp_path):
    root = write_boxes(tmp_path, [box(1, 1, [1, 2, 10, 20])], [{"id": 1, "name": "a"}], size=(40, 60))
    with pytest.raises(UserError, match=r"40 x 60 pixels, its record has 60 x 40: it was turned as its EXIF"):
        dataset(root, with_masks=False)[SampleKey(0, 0, 0)]


@pytest.mark.parametrize(
    ("categories", "message"),
    [
        ([{"id": 0, "name": "background"}, {"id": 1, "name": "a"}], "category 'background'"),
        ([{"id": 2, "name": "a"}], "of which one is not in the file"),
    ],
)
def test_mistaken_categories_are_answered_with_one_line(tmp_path, categories, message):
    root = write_boxes(tmp_path, [box(1, 1, [1, 2, 10, 20])], categories)
    with pytest.raises(UserError, match=message):
        open_coco("boxes", str(root))


def test_coco_with_91_categories_is_refused(tmp_path):
    root = write_boxes(tmp_path, [], [{"id": i, "name": str(i)} for i in range(91)])
    for part in ("train", "val"):
        (root / f"{part}2017").mkdir()
        (root / "annotations" / f"instances_{part}.json").rename(root / "annotations" / f"instances_{part}2017.json")
    with pytest.raises(UserError, match="91 categories, COCO has 80"):
        open_coco("coco", str(root))


def test_polygons_and_run_lengths_give_the_same_mask():
    from faster_coco_eval.core import mask as masks

    polygon = [[4, 3, 14, 3, 14, 9, 4, 9]]
    filled = decode_segmentation(polygon, 20, 30)
    assert filled[3:9, 4:14].all() and filled.sum() == 60
    runs = masks.encode(np.asfortranarray(filled))
    assert np.array_equal(decode_segmentation(runs, 20, 30), filled)


def test_boxes_stay_around_their_masks_through_every_augmentation(scenes):
    images = dataset(scenes)
    for index in range(len(images)):
        for epoch in range(4):
            scene = images[SampleKey(epoch, index, 0)]
            assert scene.target["masks"].shape[1:] == scene.image.shape[1:]
            for (x1, y1, x2, y2), mask in zip(scene.target["boxes"].tolist(), scene.target["masks"], strict=True):
                rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
                if len(rows) == 0:
                    continue  # cut off but for a part of a pixel
                assert y1 - 4 <= rows[0] and rows[-1] + 1 <= y2 + 4
                assert x1 - 4 <= columns[0] and columns[-1] + 1 <= x2 + 4
                height, width = mask.shape
                if min(x1, y1) > 0 and x2 < width and y2 < height:  # not cut by the crop: the box fits the object
                    assert abs(rows[0] - y1) <= 16 and abs(columns[0] - x1) <= 16


def test_a_sample_follows_from_its_key_alone(scenes):
    images = dataset(scenes)
    first = images[SampleKey(1, 2, 0)]
    torch.manual_seed(5)
    again = images[SampleKey(1, 2, 0)]
    assert torch.equal(first.image, again.image) and torch.equal(first.target["boxes"], again.target["boxes"])


def test_evaluation_resizes_the_short_side_and_keeps_the_original_size(scenes):
    images = dataset(scenes, 1, DetectionEvalTransform(192, 300), training=False)
    scene = images[SampleKey(0, 0, 0)]
    assert min(scene.image.shape[1:]) == 192
    assert scene.target["original"] in ((96, 128), (128, 96))
    assert "masks" not in scene.target


def test_an_unreadable_image_is_replaced_in_training_and_empty_in_evaluation(tmp_path):
    root = write_digit_scenes(tmp_path / "scenes", train=3, val=1)
    damaged = root / "images" / "train" / "0001.png"
    damaged.write_bytes(b"no image")
    scene = dataset(root)[SampleKey(0, 1, 0)]
    assert scene.index == 2 and scene.unreadable == (str(damaged),)
    scene = dataset(root, transform=DetectionEvalTransform(192, 300), training=False)[SampleKey(0, 1, 0)]
    assert scene.index == 1 and scene.unreadable == (str(damaged),) and not scene.image.any()
    for path in damaged.parent.iterdir():
        path.unlink()
    with pytest.raises(UserError, match=r"3 consecutive images cannot be read, beginning with .*0001.png: check"):
        dataset(root)[SampleKey(0, 1, 0)]


def test_batches_are_padded_with_zeros_to_multiples_of_32():
    batch, sizes = pad_batch([torch.ones(3, 40, 70), torch.ones(3, 64, 33)])
    assert batch.shape == (2, 3, 64, 96) and sizes == [(40, 70), (64, 33)]
    assert batch[0, :, 40:].eq(0).all() and batch[0, :, :, 70:].eq(0).all()


@pytest.mark.parametrize("world_size", [1, 2])
def test_every_micro_batch_has_images_of_one_orientation(world_size):
    upright = np.array([i % 3 == 0 for i in range(50)])
    seen = []
    for rank in range(world_size):
        sampler = GroupedSampler(
            upright,
            seed=3,
            batch_size=8,
            micro_batch_size=4,
            first_step=0,
            last_step=12,
            rank=rank,
            world_size=world_size,
        )
        for keys in sampler:
            assert len({upright[key.index] for key in keys}) == 1
            seen += [(key.epoch, key.index) for key in keys]
    assert len(seen) == 12 * 8
    first_epoch = {index for epoch, index in seen if epoch == 0}
    assert len(first_epoch) >= 44  # of 48 positions, some repeated to fill a micro-batch


def test_an_empty_crop_keeps_no_box():
    image = tv_tensors.Image(torch.zeros(3, 100, 100, dtype=torch.uint8))
    boxes = tv_tensors.BoundingBoxes(torch.tensor([[0.0, 0, 3, 3]]), format="XYXY", canvas_size=(100, 100))
    torch.manual_seed(0)
    counts = {len(SMALL(image, boxes, None, torch.tensor([0]))[3]) for _ in range(20)}
    assert counts == {0, 1}
