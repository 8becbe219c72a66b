"""Prediction and deformable attention of a segmentation model or a detector for one image."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor
from torchvision.ops import box_iou

from dat_train.commands.predict_dense import areas_text, objects_text, sorted_areas
from dat_train.commands.trained_dense import TrainedDense
from dat_train.data.batch import denormalize
from dat_train.evaluation.scenes_picture import connected_areas, draw_detections, named_overlay, palette
from dat_train.models.detection.boxes import Detections
from dat_train.models.detection.masks import paste_masks
from dat_train.models.recording import record_attention
from dat_train.runtime.display_text import NAME_WIDTH, one_line
from dat_train.viewer.attention import Inspection, recorded_layers
from dat_train.viewer.scene_pictures import Region

MAX_REGIONS = 9  # objects or areas with traced points
SAME_OBJECT = 0.7  # overlap of boxes, of which only the one with the best score becomes a region
LISTED = 8  # objects or classes on the page


class Prediction(NamedTuple):
    """Prediction for one image.

    Attributes:
        picture: prediction drawn on the image.
        regions: predicted objects or areas, in pixels of the image.
        shares: name and score of each object, or name and share of the picture of each class.
        text: the prediction in one line.
    """

    picture: Image
    regions: list[Region]
    shares: list[tuple[str, float]]
    text: str


class Scene(NamedTuple):
    """Model input, attention and prediction of one image.

    Attributes:
        inspection: input of the model without padding, and its layers.
        prediction: with the regions in pixels of the input.
        scale: input pixels per pixel of the image, (x, y).
    """

    inspection: Inspection
    prediction: Prediction
    scale: tuple[float, float]


@torch.inference_mode()
def inspect_scene(trained: TrainedDense, image: Image, least_score: float) -> Scene:
    """Run the model on one image at scale 1 and record the attention of its deformable layers.

    Args:
        least_score: of the objects of a detector.
    """
    data = trained.settings.data
    view = trained.views(image)[0]
    scale = (view.shape[2] / image.width, view.shape[1] / image.height)
    with record_attention(trained.model) as attended:
        if trained.settings.task == "segmentation":
            prediction = predicted_areas(trained, image, trained.segment(image, (1.0,), False))
        else:
            prediction = predicted_objects(trained, image, trained.detect(image), least_score)
    layers = recorded_layers(trained.model, attended)
    inspection = Inspection(denormalize(view, data.mean, data.std), np.zeros(0), layers)
    regions = [scaled_region(region, scale, inspection.image.shape[:2]) for region in prediction.regions]
    return Scene(inspection, prediction._replace(regions=regions), scale)


def predicted_objects(trained: TrainedDense, image: Image, found: Detections, least_score: float) -> Prediction:
    """Prediction of a detector. Of objects with nearly the same box, the one with the best score is a region."""
    found = found.selected((found.scores >= least_score).nonzero()[:, 0])
    boxes, labels = found.boxes, found.labels.tolist()
    masks: Sequence = [None] * len(labels)
    if found.mask_logits:
        masks = paste_masks(found.mask_logits, boxes, (image.height, image.width)).numpy()
    colors = palette(len(trained.classes)) / 255
    names, scores = [trained.classes[label] for label in labels], found.scores.tolist()
    shares = list(zip(names, scores, strict=True))
    overlaps = box_iou(boxes, boxes).triu(1)
    regions = [
        Region(
            f"{one_line(names[i], NAME_WIDTH)} {scores[i]:.2f}", boxes[i].numpy(), masks[i], tuple(colors[labels[i]])
        )
        for i in range(len(labels))
        if not (overlaps[:, i] > SAME_OBJECT).any()
    ]
    picture = draw_detections(image, found, trained.classes, least_score)
    text = objects_text(trained.classes, found, least_score)
    return Prediction(picture, regions[:MAX_REGIONS], shares[:LISTED], text)


def predicted_areas(trained: TrainedDense, image: Image, labels: Tensor) -> Prediction:
    """Prediction of a segmentation model, a label map (H, W). Regions are the largest connected areas of a class."""
    classes, labels = trained.classes, labels.numpy()
    colors, regions = palette(len(classes)) / 255, []
    for area in sorted(connected_areas(labels, classes), key=lambda area: -area.pixels)[:MAX_REGIONS]:
        box = np.array([area.columns.start, area.rows.start, area.columns.stop, area.rows.stop], float)
        mask = np.zeros(labels.shape, bool)
        mask[area.rows, area.columns] = area.mask
        regions.append(Region(one_line(classes[area.label], NAME_WIDTH), box, mask, tuple(colors[area.label])))
    shares = [(classes[k], pixels / labels.size) for k, pixels in sorted_areas(labels, len(classes))]
    return Prediction(named_overlay(image, labels, classes), regions, shares[:LISTED], areas_text(classes, labels))


def scaled_region(region: Region, scale: tuple[float, float], size: tuple[int, int]) -> Region:
    """A region in pixels of the input.

    Args:
        scale: input pixels per pixel of the image, (x, y).
        size: (height, width) of the input.
    """
    box = region.box * np.array([*scale, *scale])
    if region.mask is None:
        return region._replace(box=box)
    rows, columns = (
        ((np.arange(n) + 0.5) / factor).astype(int).clip(0, side - 1)
        for n, factor, side in zip(size, scale[::-1], region.mask.shape, strict=True)
    )
    return region._replace(box=box, mask=region.mask[rows][:, columns])
