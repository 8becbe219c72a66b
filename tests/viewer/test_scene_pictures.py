"""Attention of dense models, and the picture of predicted regions with their traced points."""

import numpy as np
import pytest
import torch
from PIL import Image

from dat_train.models.detection.rcnn import create_detector
from dat_train.models.recording import record_attention
from dat_train.viewer.attention import Inspection, recorded_layers
from dat_train.viewer.scene_pictures import MAX_QUERIES, Region, write_scene

HEIGHT, WIDTH = 96, 160
SMALL = {"dims": [8, 16, 16, 24], "depths": [1, 1, 2, 1], "num_heads": [1, 2, 2, 3], "groups": [1, 1, 2, 1]}


@pytest.fixture(scope="module")
def seen():
    torch.manual_seed(0)
    model = create_detector("datpp_tiny", "retinanet", 4, 16, **SMALL).eval()
    with torch.inference_mode(), record_attention(model) as attended:
        model(torch.randn(1, 3, HEIGHT, WIDTH))
    return Inspection(np.zeros((HEIGHT, WIDTH, 3), np.uint8), np.zeros(0), recorded_layers(model, attended))


def test_layers_of_a_detectors_backbone_are_positioned_in_input_pixels(seen):
    assert [layer.title for layer in seen.layers] == ["stage 3, block 2", "stage 4, block 1"]
    assert [layer.size for layer in seen.layers] == [(6, 10), (3, 5)]
    assert seen.layers[0].queries[-1].tolist() == [WIDTH - 8, HEIGHT - 8]
    assert all(np.allclose(layer.attention.sum(-1), 1, atol=1e-5) for layer in seen.layers)


def test_queries_of_a_region_lie_inside_it(seen):
    stage_3, stage_4 = seen.layers
    box = Region("box", np.array([16.0, 16, 64, 48]), None, (1, 0, 0))
    assert len(box.queries(stage_3)) == 6
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[16:32, 16:48] = True
    assert box._replace(mask=mask).queries(stage_3).tolist() == [[24, 24], [40, 24]]
    tiny = Region("box", np.array([1.0, 2, 3, 4]), None, (1, 0, 0))
    assert tiny.queries(stage_4).tolist() == [[2, 3]]
    whole = Region("box", np.array([0.0, 0, WIDTH, HEIGHT]), None, (1, 0, 0))
    assert len(whole.queries(stage_3)) == MAX_QUERIES


@pytest.mark.parametrize("number", [0, 1, 3])
def test_the_picture_has_a_panel_for_each_region(seen, number, tmp_path):
    regions = [Region(f"$ {i}", np.array([10.0 * i, 5, 10 * i + 40, 60]), None, (0, 0, 1)) for i in range(number)]
    path = write_scene(seen, np.zeros((3 * HEIGHT, 3 * WIDTH, 3), np.uint8), regions, tmp_path / "scene.png")
    with Image.open(path) as picture:
        rows = 2 if number == 3 else 1
        assert rows * 200 < picture.height < (rows + 1) * 260
