"""Weights of one dense task as the start of another."""

import torch

from dat_train.models.detection.rcnn import create_detector
from dat_train.models.segmentation import create_segmentation
from dat_train.models.weights.loading import load_weights

SMALL = {"dims": [8, 16, 32, 64], "depths": [1, 1, 1, 1]}


def test_the_backbone_of_a_detector_starts_a_segmentation_model(tmp_path):
    detector = create_detector("datpp_tiny", "retinanet", 5, 16, **SMALL)
    torch.save(detector.state_dict(), tmp_path / "detector.pt")
    model = create_segmentation("datpp_tiny", "upernet", 4, 16, **SMALL)
    head = model.decode_head.bottleneck.conv.weight.clone()
    report = load_weights(model, tmp_path / "detector.pt")
    assert "taken for the backbone" in str(report)
    name = "backbone.body.model.stages.3.blocks.0.mlp.fc1.weight"
    assert torch.equal(model.state_dict()[name], detector.state_dict()[name])
    assert torch.equal(model.decode_head.bottleneck.conv.weight, head)
