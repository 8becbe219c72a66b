"""Segmentation models and RetinaNet as ONNX files and programs for images of any size."""

import copy

import pytest
import timm
import torch
from torch import nn
from torchvision.ops import batched_nms, box_iou

import dat_train.models  # noqa: F401  registers the models
from dat_train.export.any_size import AnySizeAdaptiveAvgPool2d, smallest_side, with_any_size
from dat_train.export.dense_graphs import RetinaNetGraph, SegmentationGraph
from dat_train.export.onnx_file import OnnxModel, write_onnx
from dat_train.export.torch_export_file import write_program
from dat_train.models.detection.rcnn import create_detector
from dat_train.models.segmentation import create_segmentation

SMALL = {"dims": (8, 16, 16, 24), "depths": (1, 1, 1, 1), "num_heads": (1, 2, 2, 3), "groups": (1, 2, 1, 3)}
TRACED = (3, 288, 320)


def segmentation(name: str, head: str, **arguments) -> SegmentationGraph:
    torch.manual_seed(0)
    return SegmentationGraph(create_segmentation(name, head, 5, channels=8, img_size=64, **arguments)).eval()


@torch.no_grad()
@pytest.mark.parametrize("name", ["dat_tiny", "datpp_tiny"])
@pytest.mark.parametrize("size", [(64, 64), (65, 130), (150, 97)])
def test_layers_without_control_flow_on_sizes_give_the_maps_of_the_plain_ones(name, size):
    torch.manual_seed(0)
    depths = {"depths": (2, 2, 2, 2)} if name == "dat_tiny" else {}  # window attention and its shifted form
    plain = timm.create_model(name, features_only=True, img_size=64, **SMALL | depths).eval()
    other = with_any_size(copy.deepcopy(plain))
    images = torch.randn(2, 3, *size)
    for expected, found in zip(plain(images), other(images), strict=True):
        assert torch.allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("cells", [1, 2, 3, 6])
def test_adaptive_pooling_as_a_product_gives_the_means_of_the_cells(cells):
    x = torch.randn(2, 3, 7, 4)
    pooled = AnySizeAdaptiveAvgPool2d(cells)(x)
    assert torch.allclose(pooled, nn.AdaptiveAvgPool2d(cells)(x), atol=1e-6)


@pytest.mark.long
@pytest.mark.parametrize("name, head", [("datpp_tiny", "upernet"), ("dat_tiny", "semantic_fpn")])
def test_onnxruntime_segments_images_of_any_size_with_the_logits_of_the_model(name, head, tmp_path):
    graph = segmentation(name, head, **SMALL)
    assert write_onnx(graph, tmp_path / "m.onnx", TRACED, {}, smallest=graph.smallest) < 1e-4
    onnx = OnnxModel(tmp_path / "m.onnx")
    for shape in [(1, 3, 64, 64), (3, 3, 100, 71), (2, 3, 224, 512)]:
        images = torch.randn(shape)
        with torch.inference_mode():
            expected = graph(images)
        assert expected.shape == (shape[0], 5, *shape[2:])
        assert torch.allclose(onnx(images), expected, atol=1e-4)


@pytest.mark.slow
def test_a_program_segments_images_of_any_size(tmp_path):
    graph = segmentation("datpp_tiny", "upernet", **SMALL)
    assert write_program(graph, tmp_path / "m.pt2", TRACED, {}, graph.smallest) < 1e-4


@pytest.mark.long
def test_onnxruntime_detects_what_the_model_detects_after_suppression(tmp_path):
    torch.manual_seed(0)
    model = create_detector("datpp_tiny", "retinanet", 3, channels=8, img_size=64, **SMALL).eval()
    nn.init.constant_(model.bbox_head.retina_cls.bias, -2.9)  # scores around the threshold of 0.05
    nn.init.normal_(model.bbox_head.retina_cls.weight, std=0.1)
    graph = RetinaNetGraph(model).eval()
    assert write_onnx(graph, tmp_path / "m.onnx", TRACED, {}, smallest=graph.smallest, outputs=graph.outputs) < 1e-2
    images = torch.randn(1, 3, 160, 192)
    with torch.inference_mode():
        (found,) = model(images)
    boxes, scores = (part[0] for part in OnnxModel(tmp_path / "m.onnx")(images))
    place, label = (scores > 0.05).nonzero(as_tuple=True)
    kept = batched_nms(boxes[place], scores[place, label], label, 0.5)[:100]
    assert len(found.scores) == len(kept) > 10
    assert torch.allclose(scores[place, label][kept], found.scores, atol=1e-5)
    # The weaker half is near the threshold, where rounding decides which boxes take part in the suppression. In the
    # other half, scores that differ by rounding alone change places.
    half = len(kept) // 2
    same = box_iou(found.boxes[:half], boxes[place][kept]) * (found.labels[:half, None] == label[kept])
    assert (same.amax(1) > 0.999).float().mean() > 0.95


def test_the_smallest_side_of_a_graph_has_more_than_a_shifted_window():
    """A window of 12 in the second stage, with cells of 8 pixels."""
    assert smallest_side(timm.create_model("dat_nano", img_size=64)) == 64
    sizes = {"dims": (8, 16, 16, 24), "num_heads": (1, 2, 2, 3), "groups": (1, 1, 1, 3)}
    large = timm.create_model("dat_base_384", **sizes)
    assert smallest_side(large) == 13 * 8
