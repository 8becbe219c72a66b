"""Average precision of a detector, exact for any number of processes; the numbers are those of COCO's evaluation."""

import contextlib
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor, nn

from dat_train.data.scenes.detection_dataset import DetectionScene, pad_batch
from dat_train.errors import UserError
from dat_train.evaluation.inference import inference, require_images
from dat_train.models.detection.boxes import Detections
from dat_train.models.detection.masks import paste_masks
from dat_train.runtime.precision import Precision
from dat_train.runtime.processes import Processes

NUMBERS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")


class Precisions(NamedTuple):
    """Average precision and recall of boxes or masks.

    Attributes:
        numbers: the twelve of COCO, 0 to 1; -1 if there is no object of this size.
        class_ap: (classes,) AP of each class; NaN for classes without objects.
    """

    numbers: dict[str, float]
    class_ap: np.ndarray


@dataclass(frozen=True)
class DetectionEvaluation:
    """Metrics of a detector on a data set. Identical in all processes.

    Attributes:
        precisions: by "box" and, for a detector with masks, "mask".
        results: detections of all images in the COCO format, by image.
        count: images; unreadable: sorted paths of images that could not be read.
    """

    precisions: dict[str, Precisions]
    results: list[dict]
    count: int
    unreadable: list[str] = field(default_factory=list)

    @property
    def box(self) -> dict[str, float]:
        return self.precisions["box"].numbers

    @property
    def box_ap(self) -> float:
        """Average precision of boxes, percent; 0 without any object."""
        return 100 * max(self.box["AP"], 0.0)

    @property
    def mask(self) -> dict[str, float]:
        """Numbers of masks; empty without masks."""
        return self.precisions["mask"].numbers if "mask" in self.precisions else {}


def evaluate_detection(
    model: nn.Module,
    loader: Iterable[Sequence[DetectionScene]],
    *,
    classes: Sequence[str],
    precision: Precision,
    processes: Processes | None = None,
) -> DetectionEvaluation:
    """Evaluate a detector, one image at a time, so that no image is padded to the size of another.

    Args:
        model: (images, sizes, targets) -> detections, on `precision.device`.
        loader: lists of scenes with their annotations; every image once over all processes.
        classes: names by class number.

    Raises:
        UserError: no image could be read.
    """
    found: list[tuple[int, tuple[int, int], list[dict], list[dict]]] = []  # index, size, annotations, results
    unreadable: list[str] = []
    with_masks = False
    with inference(model, precision):
        for scenes in loader:
            for scene in scenes:
                unreadable += scene.unreadable
                if scene.unreadable:
                    continue
                size = scene.target["original"]
                detections = detect(model, scene.image, size, precision)
                with_masks |= detections.mask_logits is not None
                results = coco_results(detections, scene.index + 1, size)
                found.append((scene.index, size, scene.target["truth"], results))
    share = (found, unreadable, with_masks)
    shares = processes.gather(share) if processes else [share]
    found = sorted((part for images, *_ in shares for part in images), key=lambda part: part[0])
    unreadable = sorted(path for _, paths, _ in shares for path in paths)
    with_masks = any(share[2] for share in shares)
    require_images(len(found), unreadable)
    numbers = None
    results = [result for *_, part in found for result in part]
    if processes is None or processes.is_main:
        numbers = coco_average_precision(classes, [part[:3] for part in found], results, with_masks)
    numbers = processes.from_main(numbers) if processes else numbers
    return DetectionEvaluation(numbers, results, len(found), unreadable)


def detect(model: nn.Module, image: Tensor, original: tuple[int, int], precision: Precision) -> Detections:
    """Detections of one image (3, h, w) in pixels of its original (height, width)."""
    batch, sizes = pad_batch([image])
    with precision.context():
        return model(batch.to(precision.device, precision.weights_dtype), sizes, [{"original": original}])[0]


def coco_results(found: Detections, image_id: int, size: tuple[int, int]) -> list[dict[str, Any]]:
    """Detections of one image of (height, width) in the COCO format; category ids are class numbers plus one."""
    found = found.selected(slice(None))
    masks = found.mask_logits and paste_masks(found.mask_logits, found.boxes, size)
    results = []
    for i, (x1, y1, x2, y2) in enumerate(found.boxes.tolist()):
        result = {
            "image_id": image_id,
            "category_id": int(found.labels[i]) + 1,
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "score": float(found.scores[i]),
        }
        if masks is not None:
            result["segmentation"] = run_lengths(masks[i])
        results.append(result)
    return results


def run_lengths(mask: Tensor) -> dict[str, Any]:
    """Mask (H, W) bool as compressed run lengths of COCO."""
    from faster_coco_eval.core import mask as masks

    encoded = masks.encode(np.asfortranarray(mask.numpy().astype(np.uint8)))
    return {"size": list(map(int, encoded["size"])), "counts": encoded["counts"].decode()}


def coco_average_precision(
    classes: Sequence[str],
    images: Sequence[tuple[int, tuple[int, int], list[dict]]],
    results: list[dict],
    with_masks: bool = False,
) -> dict[str, Precisions]:
    """The twelve numbers and AP of each class, by "box" and, if wanted and annotated, "mask".

    Args:
        images: index, (height, width) and annotations of each image.
        results: detections; image ids are the indices plus one.
        with_masks: the results have masks.

    Raises:
        UserError: faster-coco-eval is not installed.
    """
    try:
        from faster_coco_eval import COCO
    except ImportError:
        raise UserError("task=detection needs faster-coco-eval: pip install dat-train[detection]") from None
    annotations = [annotation | {"image_id": index + 1} for index, _, truth in images for annotation in truth]
    truth = {
        "images": [{"id": index + 1, "height": size[0], "width": size[1]} for index, size, _ in images],
        "annotations": [annotation | {"id": i} for i, annotation in enumerate(annotations, start=1)],
        "categories": [{"id": k + 1, "name": name} for k, name in enumerate(classes)],
    }
    kinds = {"box": "bbox"}
    if with_masks and all("segmentation" in annotation for annotation in annotations):
        kinds["mask"] = "segm"
    with contextlib.redirect_stdout(io.StringIO()):
        known = COCO(truth)
        return {name: _precisions(known, results, kind, len(classes)) for name, kind in kinds.items()}


def _precisions(known: Any, results: list[dict], kind: str, num_classes: int) -> Precisions:
    """Evaluate results against annotations by boxes ("bbox") or masks ("segm")."""
    from faster_coco_eval import COCOeval_faster

    other = "bbox" if kind == "segm" else "segmentation"  # with a box, the area of a mask would be that of the box
    found = known.loadRes([{key: value for key, value in result.items() if key != other} for result in results])
    evaluation = COCOeval_faster(known, found, kind, print_function=lambda *_: None)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    numbers = {name: float(value) for name, value in zip(NUMBERS, evaluation.stats, strict=False)}
    precision = evaluation.eval["precision"][:, :, :, 0, -1]  # (IoU, recall, class), all sizes, 100 boxes
    values = [precision[:, :, k][precision[:, :, k] > -1] for k in range(num_classes)]
    return Precisions(numbers, np.array([value.mean() if value.size else np.nan for value in values]))
