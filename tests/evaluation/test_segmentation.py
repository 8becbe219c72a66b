"""Metrics of segmentation, and their files."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from dat_train.data.generated.digit_scenes import write_digit_scenes
from dat_train.data.micro_batches import SampleKey
from dat_train.data.scenes.segmentation_dataset import EvaluationImages
from dat_train.data.scenes.segmentation_sources import open_segmentation
from dat_train.evaluation.scenes_picture import label_picture
from dat_train.evaluation.segmentation import (
    SegmentationEvaluation,
    class_ious,
    confusion_of,
    evaluate_segmentation,
    mean_iou,
    predicted_classes,
)
from dat_train.evaluation.segmentation_files import segmentation_text, write_segmentation_report
from dat_train.models.segmentation import create_segmentation
from dat_train.runtime.precision import resolve_precision

CPU = resolve_precision("fp64", torch.device("cpu"))


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A small untrained model, and scenes to evaluate it on."""
    root = write_digit_scenes(tmp_path_factory.mktemp("data") / "scenes", train=2, val=5)
    _, val = open_segmentation("masks", str(root))
    images = EvaluationImages(val, limits=(128, 96), mean=[0.5] * 3, std=[0.25] * 3)
    torch.manual_seed(0)
    model = create_segmentation("datpp_tiny", "semantic_fpn", 11, 16, dims=[8, 16, 32, 64], depths=[1, 1, 1, 1])
    return model.double(), images, val


def test_ignored_pixels_are_in_no_number():
    labels = torch.tensor([[0, 0, 1, 255], [1, 1, 255, 255]])
    predicted = torch.tensor([[0, 1, 1, 0], [1, 0, 2, 2]])
    counts = confusion_of(predicted, labels, 3)
    assert counts.tolist() == [[1, 1, 0], [1, 2, 0], [0, 0, 0]]
    assert class_ious(counts)[:2] == pytest.approx([100 / 3, 50])
    assert np.isnan(class_ious(counts)[2])
    assert mean_iou(counts) == pytest.approx((100 / 3 + 50) / 2)


def test_evaluation_sums_pixels_of_all_images_at_original_size(small):
    model, images, val = small
    scenes = [images[SampleKey(0, i, 0)] for i in range(len(images))]
    evaluation = evaluate_segmentation(model, [scenes[:3], scenes[3:]], num_classes=11, precision=CPU)
    model.eval()
    total = np.zeros((11, 11), np.int64)
    with torch.no_grad():
        for i in range(len(val)):
            predicted = predicted_classes(model, [view.double() for view in scenes[i].views], scenes[i].labels.shape)
            assert predicted.shape == scenes[i].labels.shape
            total += confusion_of(predicted, scenes[i].labels, 11)
    assert np.array_equal(evaluation.confusion, total)
    assert evaluation.confusion.sum() == 5 * 96 * 128
    assert evaluation.count == 5 and evaluation.miou == mean_iou(total)


def test_reports_have_every_class_and_pictures_of_the_worst_images(small, tmp_path):
    model, images, val = small
    evaluation = evaluate_segmentation(
        model, [[images[SampleKey(0, i, 0)]] for i in range(5)], num_classes=11, precision=CPU
    )

    def scene(index):
        labels = val.read_labels(index)
        return val.read(index), labels, np.zeros_like(labels)

    result = write_segmentation_report(evaluation, val.classes, scene, tmp_path, {"model": "small"})
    assert json.loads((tmp_path / "result.json").read_text()) == result
    assert len((tmp_path / "per_class.csv").read_text().splitlines()) == 12
    assert (tmp_path / "worst.png").stat().st_size > 10_000 and (tmp_path / "confusion.png").exists()
    assert "mIoU" in segmentation_text(evaluation, val.classes)


def test_without_a_labeled_pixel_the_result_is_json_without_nan(tmp_path):
    nothing = np.zeros((2, 2), np.int64)

    def scene(index):
        return Image.new("RGB", (8, 8)), np.full((8, 8), 255, np.uint8), np.zeros((8, 8), np.uint8)

    numbers = {"miou": mean_iou(nothing), "pixel_accuracy": np.nan, "class_iou": np.full(2, np.nan)}
    evaluation = SegmentationEvaluation(
        **numbers, confusion=nothing, image_indices=np.zeros(1, int), image_iou=np.full(1, np.nan), unreadable=[]
    )
    result = write_segmentation_report(evaluation, ["a", "b"], scene, tmp_path)
    assert json.loads((tmp_path / "result.json").read_text()) == result and result["miou"] is None


def test_the_worst_images_have_the_lowest_intersection_over_union():
    evaluation = SegmentationEvaluation(
        miou=0,
        pixel_accuracy=0,
        class_iou=np.zeros(1),
        confusion=np.zeros((1, 1), np.int64),
        image_indices=np.arange(4),
        image_iou=np.array([50, np.nan, 10, 30]),
        unreadable=[],
    )
    assert evaluation.worst(2).tolist() == [2, 3]


def test_a_predicted_mask_keeps_the_class_numbers_as_pixel_values():
    labels = np.array([[0, 3], [255, 1]])
    picture = label_picture(labels, 4)
    assert picture.mode == "P" and np.array_equal(np.asarray(picture), labels)
