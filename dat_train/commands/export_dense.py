"""dat-export for segmentation and detection: checkpoint -> graph for images of any size -> files, compared with it."""

from collections.abc import Sequence
from pathlib import Path

import torch
from rich import box
from rich.console import Console
from rich.table import Table
from torch import nn

from dat_train.atomic import write_json
from dat_train.commands.build_data import evaluation_batches
from dat_train.commands.build_dense import validation_set
from dat_train.commands.output_folder import output_errors, output_folder
from dat_train.commands.trained_dense import TrainedDense, assemble_dense
from dat_train.data.segmentation_dataset import EvaluationImages
from dat_train.errors import UserError
from dat_train.evaluation.scenes_picture import palette
from dat_train.evaluation.segmentation import SegmentationEvaluation, evaluate_segmentation
from dat_train.export.dense_graphs import RetinaNetGraph, SegmentationGraph, retinanet_json, segmentation_json
from dat_train.export.onnx_file import OnnxModel, write_int8, write_onnx
from dat_train.export.staging import EXPORTED, staged_folder
from dat_train.export.torch_export_file import ProgramModel, write_program
from dat_train.models.checkpoint import Checkpoint
from dat_train.runtime.processes import Processes
from dat_train.runtime.terminal import Terminal
from dat_train.settings import Settings

SINGLE = Processes(0, 1, 0, torch.device("cpu"))  # on the CPU, in one process
TRACED = (3, 288, 320)  # (C, H, W) of the image that is traced


def export_dense(config: Settings, settings: Settings, checkpoint: Checkpoint, measure: bool) -> None:
    """Export a segmentation model or RetinaNet.

    Args:
        config: settings of dat-export.
        settings: of the training run, in fp32.
        measure: evaluate the files on the validation set.

    Raises:
        UserError: a format or a detector that cannot be exported, or a folder that is not writable.
    """
    _require_exportable(config, settings, measure)
    trained = assemble_dense(settings, checkpoint, config.ema, "cpu")
    val_set = _validation_set(settings, trained, checkpoint) if measure else None
    output = output_folder(config.output, checkpoint.path, f"export/{config.format}")
    terminal = Terminal()
    terminal.say(str(trained.weights))
    with output_errors(output), staged_folder(output, EXPORTED) as folder:
        graph, files = _write(config, trained, folder, terminal)
        if val_set is not None:
            _report(
                {name: _evaluate(model, trained, val_set) for name, model in {"PyTorch": graph, **files}.items()},
                folder,
            )
        names = sorted(path.name for path in folder.iterdir())
    terminal.say(f"in {output}: {', '.join(names)}")


def _require_exportable(config: Settings, settings: Settings, measure: bool) -> None:
    """Raise a UserError for what has no exported form."""
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


def _write(
    config: Settings, trained: TrainedDense, folder: Path, terminal: Terminal
) -> tuple[nn.Module, dict[str, nn.Module]]:
    """Write the export; return the graph as a module, and the models loaded from the written files by name."""
    limits, view = trained.settings.dense.limits, trained.settings.data.only("mean", "std")
    if trained.settings.task == "segmentation":
        graph = SegmentationGraph(trained.model)
        colors = palette(len(trained.classes))[: len(trained.classes)].tolist()
        text = segmentation_json(trained.classes, colors, limits, view)
    else:
        graph = RetinaNetGraph(trained.model)
        text = retinanet_json(trained.classes, limits, view)
    notes = {"preprocessing.json": text}
    (folder / "preprocessing.json").write_text(text + "\n", encoding="utf-8")
    files: dict[str, nn.Module]
    if config.format == "torch_export":
        difference = write_program(graph, folder / "model.pt2", TRACED, notes, graph.smallest)
        files = {"torch_export": ProgramModel(folder / "model.pt2")}
    else:
        path = folder / "model.onnx"
        difference = write_onnx(graph, path, TRACED, notes, smallest=graph.smallest, outputs=graph.outputs)
        files = {"onnx": OnnxModel(path)}
        if config.int8:
            write_int8(path, folder / "model.int8.onnx")
            files["onnx int8"] = OnnxModel(folder / "model.int8.onnx")
    terminal.say(
        f"{' and '.join(graph.outputs)} within {difference:.1e} of PyTorch's, for any batch, height and width from "
        f"{graph.smallest} pixels"
    )
    return graph, files


def _validation_set(settings: Settings, trained: TrainedDense, checkpoint: Checkpoint) -> EvaluationImages:
    val_set = validation_set(settings, SINGLE)
    if val_set.classes != trained.classes:
        raise UserError(f"data={settings.data.name} has other classes than {checkpoint.path}: set data=...")
    return val_set


def _evaluate(model: nn.Module, trained: TrainedDense, val_set: EvaluationImages) -> SegmentationEvaluation:
    settings = trained.settings
    batches = evaluation_batches(settings, val_set, SINGLE)
    return evaluate_segmentation(
        model, batches, num_classes=len(trained.classes), precision=trained.precision, flip=bool(settings.dense.flip)
    )


def _report(found: dict[str, SegmentationEvaluation], folder: Path) -> None:
    """Print the scores, and write them to accuracy.json."""
    rows = [
        {"model": name, "miou": result.miou, "pixel_accuracy": result.pixel_accuracy, "images": result.count}
        for name, result in found.items()
    ]
    write_json(folder / "accuracy.json", rows)
    Console(highlight=False).print(_table(rows))


def _table(rows: Sequence[dict]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("model")
    for title in ("mIoU", "cost", "pixel accuracy"):
        table.add_column(title, justify="right")
    for row in rows:
        cost = f"{rows[0]['miou'] - row['miou']:+.2f}" if row is not rows[0] else ""
        table.add_row(row["model"], f"{row['miou']:.2f} %", cost, f"{row['pixel_accuracy']:.2f} %")
    return table
