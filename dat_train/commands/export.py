"""dat-export: checkpoint -> model -> files, which are compared with the checkpoint -> accuracies."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich import box
from rich.console import Console
from rich.table import Table
from torch import nn

from dat_train.atomic import write_json
from dat_train.choices import CLASSIFIERS
from dat_train.commands.build_data import VIEW
from dat_train.commands.build_task import task_builders
from dat_train.commands.evaluation_run import evaluation_set, run_evaluation
from dat_train.commands.load_trained import TrainedClassifier, TrainedDense, load_trained_model
from dat_train.commands.output_folder import output_errors, output_folder
from dat_train.commands.saved_settings import open_checkpoint
from dat_train.errors import UserError
from dat_train.evaluation.scenes_picture import palette
from dat_train.export.dense_graphs import RetinaNetGraph, SegmentationGraph, retinanet_json, segmentation_json
from dat_train.export.model_card import model_card
from dat_train.export.onnx_file import OnnxModel, require_onnx, write_int8, write_onnx
from dat_train.export.preprocessing import Preprocessing
from dat_train.export.staging import EXPORTED, staged_folder
from dat_train.export.timm_folder import load_timm_folder, write_timm_folder
from dat_train.export.torch_export_file import ProgramModel, write_program
from dat_train.models.weights.checkpoint import Checkpoint
from dat_train.run_report.metrics import number_format, title, unit
from dat_train.runtime.processes import Processes
from dat_train.runtime.terminal import Terminal
from dat_train.settings import CommandLine, Settings

SINGLE = Processes(0, 1, 0, torch.device("cpu"))  # on the CPU, in one process
METRICS = ("miou", "pixel_accuracy", "top1", "top5", "map", "f1", "loss")  # the first one of a task is its score
TRACED_SCENE = (3, 288, 320)  # (C, H, W) of the image that is traced for segmentation and detection
HUB_METRICS = {"top1": "accuracy", "map": "mean_average_precision"}  # names on the Hugging Face hub


def run(config: Settings, command_line: CommandLine) -> None:
    """Export the model of config.ckpt.

    Raises:
        UserError: impossible settings, a checkpoint or data that cannot be used, or a folder that is not writable.
    """
    if config.int8 and config.format != "onnx":
        raise UserError(f"int8=true is for format=onnx, not for format={config.format}")
    if config.format == "onnx":
        require_onnx()
    measure = config.int8 if config.validate is None else config.validate
    checkpoint, settings = open_checkpoint(config, command_line, images=measure)
    settings = settings.changed(dtype="fp32")  # half precision is a property of a device, not of the file
    require_exportable(config, settings, measure)
    trained = load_trained_model(settings, checkpoint, config.ema, "cpu")
    # opened before the export, which takes longer
    val_set = evaluation_set(settings, checkpoint, SINGLE) if measure else None
    output = output_folder(config.output, checkpoint.path, f"export/{config.format}")
    terminal = Terminal()
    terminal.say(str(trained.weights))
    for note in getattr(val_set, "notes", ()):
        terminal.say(note)

    with output_errors(output), staged_folder(output, EXPORTED) as folder:
        if config.format == "safetensors":
            models = write_safetensors(config, trained, checkpoint, folder)
            terminal.say("timm loads it with equal logits")
        else:
            models = write_graph(config, trained, folder, terminal)
        if val_set is not None:
            options = {"precision": trained.precision, "processes": SINGLE, "terminal": terminal}
            found = {
                name: run_evaluation(settings, val_set, model, **options, text=f"evaluating {name}")[0]
                for name, model in models.items()
            }
            terminal.close()
            report(found, folder)
        names = sorted(path.name for path in folder.iterdir())
    terminal.say(f"in {output}: {', '.join(names)}")


def require_exportable(config: Settings, settings: Settings, measure: bool) -> None:
    """Raise a UserError for models and settings that cannot be exported.

    Args:
        config: settings of dat-export.
        settings: of the training run.
        measure: the files will be evaluated on the validation set.
    """
    if settings.task in CLASSIFIERS:
        return
    if config.format == "safetensors":
        raise UserError(
            f"format=safetensors is for classifiers, not for task={settings.task}: set format=onnx or "
            "format=torch_export"
        )
    if settings.task == "detection" and settings.dense.head != "retinanet":
        raise UserError(
            f"dense.head={settings.dense.head} cannot be exported, only retinanet can: the size of its "
            "second stage depends on the image; dat-predict applies the checkpoint, in Python commands/load_trained.py"
        )
    if settings.task == "detection" and measure:
        raise UserError(
            "validate=true is not possible for task=detection: the file has no selection of detections; dat-eval "
            "evaluates the checkpoint"
        )


# Files


def write_safetensors(
    config: Settings, trained: TrainedClassifier, checkpoint: Checkpoint, folder: Path
) -> dict[str, nn.Module]:
    """Write the folder for timm; return the model and the one that timm loads, by name."""
    steps = preprocessing(trained.settings)
    text = card(config, trained, checkpoint, steps)
    write_timm_folder(trained.model, folder, trained.classes, steps, text, task=trained.settings.task)
    return {"PyTorch": trained.model, "timm": load_timm_folder(folder)}


def write_graph(
    config: Settings, trained: TrainedClassifier | TrainedDense, folder: Path, terminal: Terminal
) -> dict[str, nn.Module]:
    """Write a file of ONNX or torch.export; return the model and those loaded from the written files, by name."""
    graph, outputs, smallest, sizes = trained.model, ("logits",), None, ""
    if isinstance(trained, TrainedClassifier):
        steps = preprocessing(trained.settings)
        size, text = steps.input_size, steps.as_json(trained.classes, "sigmoid" if trained.multi_label else "softmax")
        names = json.dumps(trained.classes, ensure_ascii=False).encode("utf-8", "backslashreplace").decode()
        notes = {"preprocessing.json": text, "classes.json": names}
    else:
        graph, text = dense_graph(trained)
        size, notes, outputs, smallest = TRACED_SCENE, {"preprocessing.json": text}, graph.outputs, graph.smallest
        sizes = f", for any batch, height and width from {smallest} pixels"
    (folder / "preprocessing.json").write_text(text + "\n", encoding="utf-8")
    models = {"PyTorch": graph}
    if config.format == "torch_export":
        difference = write_program(graph, folder / "model.pt2", size, notes, smallest)
        models["torch_export"] = ProgramModel(folder / "model.pt2")
    else:
        path = folder / "model.onnx"
        difference = write_onnx(graph, path, size, notes, smallest=smallest, outputs=outputs)
        models["onnx"] = OnnxModel(path)
        if config.int8:
            write_int8(path, folder / "model.int8.onnx")
            models["onnx int8"] = OnnxModel(folder / "model.int8.onnx")
    terminal.say(f"{' and '.join(outputs)} within {difference:.1e} of PyTorch's{sizes}")
    return models


def dense_graph(trained: TrainedDense) -> tuple[nn.Module, str]:
    """Return a segmentation model or RetinaNet as a graph, and the content of preprocessing.json."""
    limits, view = trained.settings.dense.limits, trained.settings.data.only("mean", "std")
    if trained.settings.task == "detection":
        return RetinaNetGraph(trained.model), retinanet_json(trained.classes, limits, view)
    colors = palette(len(trained.classes))[: len(trained.classes)].tolist()
    graph = SegmentationGraph(trained.model)
    return graph, segmentation_json(trained.classes, colors, limits, view, graph.smallest)


def preprocessing(settings: Settings) -> Preprocessing:
    return Preprocessing(settings.img_size, **settings.eval.only(*VIEW), **settings.data.only("mean", "std"))


def card(config: Settings, trained: TrainedClassifier, checkpoint: Checkpoint, steps: Preprocessing) -> str:
    """Model card with the data about the training in the checkpoint."""
    content, settings = checkpoint.content, trained.settings
    properties = [("weights", trained.weights.source)]
    data = result = None
    score = task_builders(settings).score
    if "step" in content and "config" in content:  # of a run of dat-train
        data, optim = settings.data.name, settings.optim
        value = score_of(config, content, score.name)
        result = None if value is None else (HUB_METRICS[score.name], value / 100)
        properties += [
            ("data", data),
            ("training", f"{content['epoch']} epochs, {content['step']:,} steps of {settings.batch_size} images"),
            ("optimizer", f"{optim.name}, learning rate {optim.lr:g}, weight decay {optim.weight_decay:g}"),
            ("augmentation", settings.augment.name),
            ("seed", str(settings.seed)),
        ]
        if value is not None:
            properties.append((f"{title(score.name)}, validation", f"{value:.2f} %"))
    return model_card(
        trained.model,
        name=settings.name or settings.model.name,
        classes=trained.classes,
        preprocessing=steps,
        properties=properties,
        result=result,
        data=data,
        multi_label=trained.multi_label,
    )


def score_of(config: Settings, content: dict, name: str) -> float | None:
    """Validation score of these weights with the settings of the training; None if unknown."""
    changed = [config.img_size, config.ema, *config.eval.values()]
    best = content.get("best") or {}
    same = best.get("step") == content["step"] and all(value is None for value in changed)
    return best[name] if same else None


# Accuracies


def report(found: dict[str, Any], folder: Path) -> None:
    """Print the accuracies, and write them to accuracy.json.

    Args:
        found: evaluation of each model, by name; the first is that of PyTorch.
    """
    first = next(iter(found.values()))
    rows = []
    for name, result in found.items():
        metrics = {metric: getattr(result, metric) for metric in METRICS if hasattr(result, metric)}
        row = {"model": name, **metrics, "images": result.count}
        if hasattr(result, "predicted"):  # labels of all images and classes for several labels per image
            row["other_predictions"] = int((result.predicted != first.predicted).sum())
            row["predictions"] = result.predicted.size
        rows.append(row)
    write_json(folder / "accuracy.json", rows)
    Console(highlight=False).print(accuracy_table(rows))


def accuracy_table(rows: Sequence[dict]) -> Table:
    """Score, loss or pixel accuracy, and differences to the first row."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    score = next(metric for metric in METRICS if metric in rows[0])
    second = "loss" if "loss" in rows[0] else "pixel_accuracy"
    table.add_column("model")
    changed = ["other predictions"] if "predictions" in rows[0] else []
    for heading in (title(score), "cost", title(second), *changed):
        table.add_column(heading, justify="right")
    for row in rows:
        values = [f"{row[name]:{number_format(name)}}{unit(name)}" for name in (score, second)]
        others = [f"{row['other_predictions']:,} of {row['predictions']:,}"] if changed else []
        if row is rows[0]:
            table.add_row(row["model"], values[0], "", values[1])
        else:
            table.add_row(row["model"], values[0], f"{rows[0][score] - row[score]:+.2f}", values[1], *others)
    return table
