"""Export of segmentation models and RetinaNet as graphs for images of any size."""

from torch import nn

from dat_train.commands.trained_dense import TrainedDense
from dat_train.errors import UserError
from dat_train.evaluation.scenes_picture import palette
from dat_train.export.dense_graphs import RetinaNetGraph, SegmentationGraph, retinanet_json, segmentation_json
from dat_train.settings import Settings


def require_exportable(config: Settings, settings: Settings, measure: bool) -> None:
    """Raise a UserError for what has no exported form.

    Args:
        config: settings of dat-export.
        settings: of the training run.
        measure: the files will be evaluated on the validation set.
    """
    if config.format == "safetensors":
        raise UserError(
            f"format=safetensors is for classifiers, not for task={settings.task}: set format=onnx or "
            "format=torch_export"
        )
    if settings.task == "detection" and settings.dense.head != "retinanet":
        raise UserError(
            f"dense.head={settings.dense.head} cannot be exported, only retinanet can: the size of its "
            "second stage depends on the image; dat-predict applies the checkpoint, in Python commands/trained_dense.py"
        )
    if settings.task == "detection" and measure:
        raise UserError(
            "validate=true is not possible for task=detection: the file has no selection of detections; dat-eval "
            "evaluates the checkpoint"
        )


def dense_graph(trained: TrainedDense) -> tuple[nn.Module, str]:
    """Return a segmentation model or RetinaNet as a graph, and the content of preprocessing.json."""
    limits, view = trained.settings.dense.limits, trained.settings.data.only("mean", "std")
    if trained.settings.task == "detection":
        return RetinaNetGraph(trained.model), retinanet_json(trained.classes, limits, view)
    colors = palette(len(trained.classes))[: len(trained.classes)].tolist()
    return SegmentationGraph(trained.model), segmentation_json(trained.classes, colors, limits, view)
