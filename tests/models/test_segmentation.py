"""Segmentation models against the numbers of the published implementation."""

import pytest
import timm
import torch
from golden.dense import FOLDER, assert_buffers_agree, assert_gradients_agree, backbone, load_dense
from golden.dense.weights import labels

from dat_train.models.deformable import SamplingPositions
from dat_train.models.dense_backbone import Pyramid
from dat_train.models.segmentation import (
    AuxiliaryHead,
    SegmentationModel,
    SemanticFPNHead,
    UPerHead,
    create_segmentation,
    segmentation_logits,
    segmentation_loss,
    segmentation_probabilities,
)
from dat_train.models.weights.loading import load_weights
from dat_train.models.weights.published_dense import is_published_dense

RECORDS = ("seg_upernet_micro", "seg_fpn_micro")


def build_model(record: dict) -> SegmentationModel:
    head, body = record["config"]["decode_head"], backbone(record)
    if "neck" in record["config"]:
        neck = Pyramid(body.channels, record["config"]["neck"]["out_channels"])
        decoder = SemanticFPNHead(head["in_channels"][0], head["channels"], head["num_classes"], dropout=0)
        return SegmentationModel(body, decoder, neck)
    auxiliary = record["config"]["auxiliary_head"]
    return SegmentationModel(
        body,
        UPerHead(head["in_channels"], head["channels"], head["num_classes"], 0, head["pool_scales"]),
        auxiliary_head=AuxiliaryHead(auxiliary["in_channels"], auxiliary["channels"], auxiliary["num_classes"], 0),
    )


@pytest.mark.parametrize("name", RECORDS)
def test_outputs_and_predictions_agree(name):
    golden = load_dense(name, build_model)
    assert sum(parameter.numel() for parameter in golden.model.parameters()) == golden.record["params"]
    with torch.no_grad():
        maps = golden.model.backbone(golden.images)
        logits = golden.model(golden.images)
        full = segmentation_logits(golden.model, golden.images, (96, 128)).argmax(1)
        resized = segmentation_logits(golden.model, golden.images, (73, 110)).argmax(1)
    for i, x in enumerate(maps):
        want = golden.tensors[f"stage{i}"]
        assert (x - want).abs().max() < 1e-4 * max(1, want.abs().max())
    if golden.model.neck is not None:
        for i, x in enumerate(golden.model.neck(maps)):
            want = golden.tensors[f"neck{i}"]
            assert (x - want).abs().max() < 1e-4 * max(1, want.abs().max())
    if golden.model.auxiliary_head is not None:
        assert (golden.model.auxiliary_head(maps[2]) - golden.tensors["aux_logits"]).abs().max() < 1e-4
    assert (logits - golden.tensors["logits"]).abs().max() < 1e-4
    close = golden.record["prediction_pixels_with_margin_below"]["1e-4"]
    assert (full != golden.tensors["prediction"]).sum() <= close
    assert (resized != golden.tensors["prediction_73x110"]).sum() <= close


@pytest.mark.parametrize("name", RECORDS)
def test_losses_gradients_and_batchnorm_buffers_agree(name):
    golden = load_dense(name, build_model)
    targets = labels(2, 96, 128, 7)
    assert torch.equal(targets, golden.tensors["labels"].long())
    logits, auxiliary = golden.model.train()(golden.images)
    losses = {"decode.loss_ce": segmentation_loss(logits, targets)}
    if auxiliary is not None:
        losses["aux.loss_ce"] = 0.4 * segmentation_loss(auxiliary, targets)
    total = sum(losses.values())
    total.backward()
    for key, loss in (losses | {"total": total}).items():
        assert loss.item() == pytest.approx(golden.record["losses"][key], rel=1e-4), key
    assert_buffers_agree(golden)
    assert_gradients_agree(golden, 1e-2)  # a ReLU close to zero can change sides


def test_released_upernet_file_loads_with_equal_logits():
    golden = load_dense("seg_upernet_micro", build_model)
    content = torch.load(FOLDER / "official_seg_upernet_micro.pth", weights_only=True)
    assert is_published_dense(content["state_dict"])
    model = build_model(golden.record).eval()
    report = load_weights(model, FOLDER / "official_seg_upernet_micro.pth")
    assert report.classes == 7 and "renamed the published parameters" in report.notes
    with torch.no_grad():
        assert torch.equal(model(golden.images), golden.model(golden.images))


@pytest.mark.parametrize(("head", "parameters"), [("upernet", 53_758_400), ("semantic_fpn", 27_701_034)])
def test_published_sizes_are_exact(head, parameters):
    with torch.device("meta"):
        model = create_segmentation("datpp_tiny", head, 150)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters


def test_only_norms_and_tables_of_the_backbone_do_not_decay():
    with torch.device("meta"):
        model = create_segmentation("datpp_tiny", "upernet", 150)
    exempt = model.no_weight_decay()
    assert "backbone.norms.3.weight" in exempt
    assert any("bias.table" in name for name in exempt)
    assert not any("rpb" in name or name.startswith(("decode_head", "auxiliary_head")) for name in exempt)


def test_class_weights_multiply_the_loss_of_the_pixels_of_a_class():
    torch.manual_seed(0)
    logits, targets = torch.randn(2, 3, 8, 8, dtype=torch.float64), torch.randint(0, 3, (2, 8, 8))
    targets[0, :2] = 255
    weights = torch.tensor([0.1, 1.0, 2.0])
    parts = [segmentation_loss(logits, targets.where(targets == k, 255)) for k in range(3)]
    expected = sum(weight * part for weight, part in zip(weights.double(), parts, strict=True))
    assert torch.allclose(segmentation_loss(logits, targets, weights), expected)
    assert torch.equal(segmentation_loss(logits, targets, torch.ones(3)), segmentation_loss(logits, targets))


def test_probabilities_average_the_softmax_of_views_and_mirror_images():
    golden = load_dense("seg_fpn_micro", build_model)
    views = [golden.images, golden.images[:, :, :64, :96]]
    with torch.no_grad():
        averaged = segmentation_probabilities(golden.model, views, (73, 110), flip=True)
        singles = [segmentation_logits(golden.model, view, (73, 110)).softmax(1) for view in views] + [
            segmentation_logits(golden.model, view.flip(-1), (73, 110)).flip(-1).softmax(1) for view in views
        ]
    assert torch.allclose(averaged, torch.stack(singles).mean(0), atol=1e-6)


def test_weights_of_a_classifier_start_the_backbone(tmp_path):
    small = {"dims": [8, 16, 32, 64], "depths": [1, 1, 1, 1]}
    classifier = timm.create_model("datpp_tiny", num_classes=3, **small)
    torch.save(classifier.state_dict(), tmp_path / "classifier.pt")
    model = create_segmentation("datpp_tiny", "semantic_fpn", 5, 16, **small)
    head = model.decode_head.conv_seg.weight.clone()
    report = load_weights(model, tmp_path / "classifier.pt")
    assert "taken for the backbone" in str(report)
    assert torch.equal(model.state_dict()["backbone.body.model.stem.conv.weight"], classifier.stem.conv.weight)
    assert torch.equal(model.decode_head.conv_seg.weight, head)


def test_a_model_of_other_classes_keeps_its_own_classifier(tmp_path):
    small = {"dims": [8, 16, 32, 64], "depths": [1, 1, 1, 1]}
    torch.save(create_segmentation("datpp_tiny", "upernet", 5, 16, **small).state_dict(), tmp_path / "five.pt")
    model = create_segmentation("datpp_tiny", "upernet", 4, 16, **small)
    report = load_weights(model, tmp_path / "five.pt")
    assert report.classes == 5 and "a newly initialized one stays" in str(report)


def test_the_backbone_takes_every_argument_of_the_model():
    sizes = {"dims": [8, 16, 16, 24], "depths": [1, 1, 2, 1], "num_heads": [1, 2, 2, 3], "groups": [1, 1, 2, 1]}
    model = create_segmentation("datpp_tiny", "semantic_fpn", 3, 8, strides=[4, 2, 1, 1], **sizes)
    layers = [module for module in model.modules() if isinstance(module, SamplingPositions)]
    assert [layer.conv.stride for layer in layers] == [(1, 1), (1, 1)]  # stages 3 and 4
