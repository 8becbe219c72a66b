"""Detection models against the numbers of the published implementation."""

import pytest
import torch
from golden.dense import FOLDER, assert_buffers_agree, assert_gradients_agree, backbone, load_dense
from golden.dense.weights import masks
from torchvision.ops import box_iou

from dat_train.models.dense_backbone import PooledLevel, Pyramid, StridedLevels
from dat_train.models.detection.boxes import match
from dat_train.models.detection.masks import paste_masks
from dat_train.models.detection.rcnn import MaskRCNN, create_detector
from dat_train.models.detection.retinanet import RetinaHead, RetinaNet
from dat_train.models.detection.roi_heads import CASCADE_STDS, BoxHead, MaskHead, RoIHeads, pool_regions
from dat_train.models.detection.rpn import RPNHead
from dat_train.models.weights.loading import load_weights

CLASSES, CHANNELS = 5, 32
RCNN = ("det_maskrcnn_micro", "det_cascade_micro")


def build_model(record: dict) -> RetinaNet | MaskRCNN:
    body = backbone(record)
    if record["config"]["type"] == "RetinaNet":
        neck = Pyramid(body.channels, CHANNELS, StridedLevels(body.channels[-1], CHANNELS, 2))
        return RetinaNet(body, neck, RetinaHead(CLASSES, CHANNELS, convs=2), CLASSES)
    if record["config"]["type"] == "MaskRCNN":
        neck = Pyramid(body.channels, CHANNELS, StridedLevels(body.channels[-1], CHANNELS, 1))
        heads, cascade = [BoxHead(CHANNELS, CLASSES, 64)], False
    else:
        neck = Pyramid(body.channels, CHANNELS, PooledLevel())
        heads, cascade = [BoxHead(CHANNELS, CLASSES, 64, convs=2, stds=stds) for stds in CASCADE_STDS], True
    segments = [MaskHead(CHANNELS, CLASSES, 16, convs=2) for _ in heads]
    rpn = RPNHead(CHANNELS, cascade, sampled=20_000, per_level=(100, 100), proposals=(30, 30))
    return MaskRCNN(body, neck, rpn, RoIHeads(heads, segments, sampled=4_096))


def target(record: dict) -> dict:
    truth = record["gt"]
    size = record["input"]
    return {
        "boxes": torch.tensor(truth["boxes"]),
        "labels": torch.tensor(truth["labels"]),
        "masks": masks(truth["boxes"], size["height"], size["width"]),
    }


def close(ours: torch.Tensor, want: torch.Tensor, tolerance: float = 1e-4) -> bool:
    return bool((ours - want).abs().max() < tolerance * max(1, float(want.abs().max())))


def match_detections(found, tensors: dict, prefix: str) -> torch.Tensor:
    """Index of the detection of ours that each stored detection is: same label, score and box."""
    boxes, scores, labels = (tensors[f"{prefix}.{key}"] for key in ("boxes", "scores", "labels"))
    assert len(found.boxes) == len(boxes)
    overlap = box_iou(boxes, found.boxes) * (labels[:, None] == found.labels[None])
    best, index = overlap.max(1)
    assert (best > 0.999).all()
    assert index.unique().numel() == len(index)
    assert (found.scores[index] - scores).abs().max() < 1e-4
    assert (found.boxes[index] - boxes).abs().max() < 1e-2
    return index


@torch.no_grad()
def test_retinanet_outputs_anchors_assignment_and_detections_agree():
    golden = load_dense("det_retinanet_micro", build_model)
    model, want = golden.model, golden.tensors
    assert sum(parameter.numel() for parameter in model.parameters()) == golden.record["params"]
    maps = model.backbone(golden.images)
    levels = model.neck(maps)
    scores, deltas = model.bbox_head(levels)
    anchors = model.bbox_head.anchors(levels)
    assert all(close(x, want[f"stage{i}"]) for i, x in enumerate(maps, start=1))
    for i, name in enumerate(("P3", "P4", "P5", "P6", "P7")):
        assert close(levels[i], want[f"neck.{name}"])
        assert close(scores[i], want[f"cls.{name}"])
        assert close(deltas[i], want[f"reg.{name}"])
        assert close(anchors[i], want[f"anchors.{name}"], 1e-6)
    assigned = match(target(golden.record)["boxes"], torch.cat(anchors), positive=0.5, negative=0.4, minimum=0.0)
    assert torch.equal(assigned, want["assigned"].long())
    match_detections(model(golden.images, [(128, 160)])[0], want, "det")


@torch.no_grad()
@pytest.mark.parametrize("name", ["det_retinanet_micro", "det_maskrcnn_micro"])
def test_detections_of_a_padded_and_resized_image_agree(name):
    golden = load_dense(name, build_model)
    images = golden.images.clone()
    images[:, :, 124:], images[:, :, :, 148:] = 0, 0
    found = golden.model(images, [(124, 148)], [{"original": (62, 148)}])[0]
    index = match_detections(found, golden.tensors, "padded")
    if found.mask_logits is not None:
        areas = paste_masks(found.mask_logits, found.boxes, (62, 148)).flatten(1).sum(1)[index]
        assert (areas - golden.tensors["padded.mask_area"]).abs().max() <= 8


@torch.no_grad()
@pytest.mark.parametrize("name", RCNN)
def test_proposals_stages_detections_and_masks_agree(name):
    golden = load_dense(name, build_model)
    model, want = golden.model, golden.tensors
    assert sum(parameter.numel() for parameter in model.parameters()) == golden.record["params"]
    size = (128, 160)
    maps = model.backbone(golden.images)
    levels = model.neck(maps)
    assert all(close(x, want[f"stage{i}"]) for i, x in enumerate(maps))
    scores, deltas = model.rpn_head.outputs(levels)
    for i, level in enumerate(("P2", "P3", "P4", "P5", "P6")):
        assert close(scores[i], want[f"rpn.cls.{level}"])
        assert close(deltas[i], want[f"rpn.reg.{level}"])
    proposals, _ = model.rpn_head(levels, [size])
    assert close(proposals[0], want["proposals.boxes"], 1e-3)
    stages = model.roi_head.run_stages(levels[:4], [want["proposals.boxes"]], [size])
    for i, (boxes, logits, box_deltas) in enumerate(stages):
        prefix = "roi" if len(stages) == 1 else f"roi{i}"
        if len(stages) > 1:
            assert close(boxes[0], want[f"{prefix}.rois"], 1e-3)
        assert close(logits, want[f"{prefix}.cls"])
        assert close(box_deltas, want[f"{prefix}.reg"])
    found = model(golden.images, [size])[0]
    index = match_detections(found, want, "det")
    areas = paste_masks(found.mask_logits, found.boxes, size).flatten(1).sum(1)[index]
    assert (areas - want["det.mask_area"]).abs().max() <= 8
    for i, logits in enumerate(found.mask_logits):
        stored = "det.mask_logits.top5" + (f".head{i}" if len(stages) > 1 else "")
        assert close(logits[index[:5]], want[stored], 1e-3)


@torch.no_grad()
def test_anchors_pooled_regions_and_training_regions_of_mask_rcnn_agree():
    golden = load_dense("det_maskrcnn_micro", build_model)
    model, want, truth = golden.model, golden.tensors, target(golden.record)
    levels = model.neck(model.backbone(golden.images))
    anchors = model.rpn_head.anchors(levels)
    assert close(anchors[0][:6], want["anchors.P2"], 1e-6)
    assert close(anchors[4], want["anchors.P6"], 1e-6)
    assigned = model.rpn_head.assign(levels, anchors, (128, 160), truth["boxes"])
    assert torch.equal(assigned, want["rpn.assigned"].long())
    pooled = pool_regions(levels[:4], [want["proposals.boxes"]], 7).mean((2, 3))
    assert close(pooled, want["roi.pooled.mean"])
    regions = model.roi_head.sample(want["proposals.boxes"], truth)
    positives = len(regions.index)
    assert close(regions.boxes[:positives], want["train.pos_boxes"])
    assert close(regions.boxes[positives:], want["train.neg_boxes"])
    assert torch.equal(regions.index, want["train.pos_gt"].long())


@pytest.mark.parametrize("name", ["det_retinanet_micro", *RCNN])
def test_losses_gradients_and_buffers_agree(name):
    """In float64: each stage of the cascade has the boxes of the last one, and float32 rounds by processor."""
    golden = load_dense(name, build_model)
    truth = {key: x.double() if x.is_floating_point() else x for key, x in target(golden.record).items()}
    losses = golden.model.train().double()(golden.images.double(), [(128, 160)], [truth])
    total = sum(losses.values())
    total.backward()
    for key, loss in losses.items():
        if key[-2:] in ("_0", "_1", "_2"):
            key = f"s{key[-1]}.{key[:-2]}"
        stored = golden.record["losses"][key]
        stored = sum(stored) if isinstance(stored, list) else stored
        assert loss.item() == pytest.approx(stored, rel=2e-5), key
    assert total.item() == pytest.approx(golden.record["losses"]["total"], rel=2e-5)
    assert_gradients_agree(golden, 1e-4)
    if name == "det_cascade_micro":
        assert_buffers_agree(golden)


def test_released_retinanet_file_loads_with_equal_boxes():
    golden = load_dense("det_retinanet_micro", build_model)
    model = build_model(golden.record).eval()
    load_weights(model, FOLDER / "official_det_retinanet_micro.pth")
    with torch.no_grad():
        ours, want = model(golden.images, [(128, 160)])[0], golden.model(golden.images, [(128, 160)])[0]
    assert torch.equal(ours.boxes, want.boxes)


@pytest.mark.parametrize(
    ("head", "parameters"),
    [("retinanet", 33_684_232), ("mask_rcnn", 44_781_700), ("cascade_mask_rcnn", 81_436_998)],
)
def test_published_sizes_are_exact(head, parameters):
    with torch.device("meta"):
        model = create_detector("datpp_tiny", head, 80)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters


def test_an_image_without_objects_makes_all_anchors_background():
    empty = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64), "masks": torch.zeros(0, 128, 160)}
    for name in ("det_retinanet_micro", *RCNN):
        golden = load_dense(name, build_model)
        images = torch.cat([golden.images, golden.images])
        losses = golden.model.train()(images, [(128, 160)] * 2, [empty, empty])
        assert all(torch.isfinite(loss) for loss in losses.values())
        sum(losses.values()).backward()
