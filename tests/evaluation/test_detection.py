"""Average precision of detectors."""

import numpy as np
import pytest
import torch

from dat_train.data.generated.digit_scenes import write_digit_scenes
from dat_train.data.micro_batches import SampleKey
from dat_train.data.scenes.coco import open_coco
from dat_train.data.scenes.detection_dataset import DetectionEvalTransform, DetectionImages
from dat_train.evaluation.detection import coco_average_precision, detect, evaluate_detection, run_lengths
from dat_train.models.detection.rcnn import create_detector
from dat_train.runtime.precision import resolve_precision

CPU = resolve_precision("fp32", torch.device("cpu"))


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    root = write_digit_scenes(tmp_path_factory.mktemp("data") / "scenes", train=2, val=4)
    folder, file = open_coco("boxes", str(root))[1]
    transform = DetectionEvalTransform(96, 128)
    return DetectionImages(
        folder, file, file.images, transform=transform, mean=[0.5] * 3, std=[0.25] * 3, training=False
    )


def truths(images):
    return [(i, (r["height"], r["width"]), images.file.truth(r)) for i, r in enumerate(images.records)]


def truth_as_results(images, score=0.9):
    return [
        {"image_id": index + 1, "category_id": a["category_id"], "bbox": a["bbox"], "score": score}
        for index, _, truth in truths(images)
        for a in truth
    ]


def test_the_ground_truth_itself_has_a_precision_of_1(images):
    precisions = coco_average_precision(images.classes, truths(images), truth_as_results(images))
    box, class_ap = precisions["box"]
    assert box["AP"] == box["AP50"] == pytest.approx(1) and set(precisions) == {"box"}
    occurring = {a["category_id"] for _, _, truth in truths(images) for a in truth}
    for k in range(10):
        assert class_ap[k] == pytest.approx(1) if k + 1 in occurring else np.isnan(class_ap[k])


def test_masks_have_numbers_of_their_own(images):
    half = [
        {"image_id": index + 1, "category_id": a["category_id"], "bbox": a["bbox"], "score": 0.9}
        | {"segmentation": run_lengths(torch.zeros(size, dtype=torch.bool))}
        for index, size, truth in truths(images)
        for a in truth
    ]
    found = coco_average_precision(images.classes, truths(images), half, with_masks=True)
    assert found["box"].numbers["AP"] == pytest.approx(1) and found["mask"].numbers["AP"] == 0
    assert np.nanmax(found["box"].class_ap) == pytest.approx(1) and np.nanmax(found["mask"].class_ap) == 0
    nothing = coco_average_precision(images.classes, truths(images), [], with_masks=True)
    for kind in ("box", "mask"):
        assert nothing[kind].numbers["AP"] == 0
        assert np.array_equal(np.isnan(nothing[kind].class_ap), np.isnan(found["box"].class_ap))


def test_boxes_of_another_class_are_wrong(images):
    results = [result | {"category_id": result["category_id"] % 10 + 1} for result in truth_as_results(images)]
    assert coco_average_precision(images.classes, truths(images), results)["box"].numbers["AP50"] < 0.5


@pytest.mark.parametrize("head", ["retinanet", "mask_rcnn", "cascade_mask_rcnn"])
def test_every_detector_is_evaluated_one_image_at_a_time(images, head):
    torch.manual_seed(0)
    model = create_detector("datpp_tiny", head, 10, 16, dims=[8, 16, 32, 64], depths=[1, 1, 1, 1])
    scenes = [images[SampleKey(0, i, 0)] for i in range(len(images))]
    one = evaluate_detection(model, [scenes], classes=images.classes, precision=CPU)
    two = evaluate_detection(model, [scenes[2:], scenes[:2]], classes=images.classes, precision=CPU)
    assert one.results == two.results and one.box == two.box and one.count == 4
    assert len(one.box) == 12
    with torch.no_grad():
        found = detect(model.eval(), scenes[1].image, scenes[1].target["original"], CPU)
    assert (found.boxes[:, 2] <= images.records[1]["width"] + 1e-3).all()


def test_the_size_of_a_mask_is_its_own_area_and_not_that_of_its_box():
    """A wrong mask of 20 x 20 pixels in a box of 50 x 50 counts against small objects."""
    true, wrong = torch.zeros(2, 200, 200, dtype=torch.bool)
    true[10:40, 10:40], wrong[100:120, 100:120] = True, True
    right = {"category_id": 1, "bbox": [10, 10, 30, 30], "segmentation": run_lengths(true)}
    other = {"category_id": 1, "bbox": [100, 100, 50, 50], "segmentation": run_lengths(wrong)}
    results = [other | {"image_id": 1, "score": 0.95}, right | {"image_id": 1, "score": 0.9}]
    truth = [(0, (200, 200), [right | {"area": 900, "iscrowd": 0}])]
    numbers = coco_average_precision(["a"], truth, results, with_masks=True)["mask"].numbers
    assert numbers["AP"] == numbers["APs"] == pytest.approx(0.5, abs=0.01)
    assert coco_average_precision(["a"], truth, [])["box"].numbers["APm"] == -1  # there is no object of this size
