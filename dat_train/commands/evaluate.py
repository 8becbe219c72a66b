"""dat-eval: checkpoint and settings -> model and images -> evaluation -> report."""

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from dat_train.atomic import csv_text, write_text
from dat_train.choices import CLASSIFIERS
from dat_train.commands.build_data import VIEW
from dat_train.commands.evaluation_run import evaluation_set, run_evaluation, set_view
from dat_train.commands.load_trained import TrainedModel, load_trained_model
from dat_train.commands.output_folder import output_errors, output_folder
from dat_train.commands.saved_settings import open_checkpoint
from dat_train.errors import UserError
from dat_train.evaluation.classification_files import result_text, write_report
from dat_train.evaluation.detection_files import detection_text, write_detection_report
from dat_train.evaluation.multilabel_files import multilabel_text, write_multilabel_report
from dat_train.evaluation.segmentation_files import segmentation_text, write_segmentation_report
from dat_train.models import count_parameters
from dat_train.models.kernels import accelerate
from dat_train.models.weights.checkpoint import Checkpoint
from dat_train.run_report.metrics import title
from dat_train.runtime.display_text import table
from dat_train.runtime.processes import Processes, start_processes, stop_processes
from dat_train.runtime.terminal import Terminal
from dat_train.settings import CommandLine, Settings

COLUMNS = ("img_size", "top1", "top5", "map", "f1", "macro_f1", "loss", "ece", "images_per_second")  # resolutions.csv
MAX_NAMED_FILES = 5  # unreadable images printed; result.json has all
FILES = ("result.json", "per_class.csv", "confused.csv", "wrong.csv", "wrong.png")
FILES_OF_SCENES = ("confusion.csv", "confusion.png", "worst.png", "detections.json", "detections.png")


def run(config: Settings, command_line: CommandLine) -> None:
    """Evaluate the checkpoint and write the reports.

    Raises:
        UserError: a checkpoint or data that cannot be used, or several resolutions of another task.
    """
    checkpoint, settings = open_checkpoint(config, command_line, images=True)
    if config.img_sizes and settings.task not in CLASSIFIERS:
        raise UserError(
            f"img_sizes={config.img_sizes} is for classifiers, not for task={settings.task}: set "
            "dense.limits=[LONG,SHORT]"
        )
    processes = start_processes(config.device, settings.timeout_minutes, settings.deterministic)
    terminal = Terminal(screen=processes.is_main)
    try:
        processes.check_same(config.as_yaml(), "configuration")
        _run(config, settings, checkpoint, processes, terminal)
    finally:
        terminal.close()
    stop_processes()


def _run(
    config: Settings, settings: Settings, checkpoint: Checkpoint, processes: Processes, terminal: Terminal
) -> None:
    output = output_folder(config.output, checkpoint.path, "eval")
    val_set = evaluation_set(settings, checkpoint, processes)
    processes.on_main(lambda: prepare_folder(output))  # before the evaluation, which may take hours
    trained = load_trained_model(settings, checkpoint, config.ema, str(processes.device))
    accelerate(trained.model, processes.device, config.kernels)
    options = {"precision": trained.precision, "processes": processes, "terminal": terminal}
    results = []
    for size in config.img_sizes or [settings.img_size]:
        if config.img_sizes:
            settings = settings.changed(img_size=size)
            set_view(val_set, settings)
        evaluation, seconds = run_evaluation(settings, val_set, trained.model, **options)
        if processes.is_main:
            terminal.close()
            metadata = view_metadata(settings) | run_metadata(trained, len(val_set), processes, seconds)
            folder = output / str(size) if config.img_sizes else output
            result, text = write_files(config, trained, val_set, evaluation, folder=folder, metadata=metadata)
            print_result(terminal, result_topics(result, trained, val_set), text, folder)
            results.append(result)
    if config.img_sizes and processes.is_main:
        columns = [name for name in COLUMNS if name in results[0]]  # depends on the task
        rows = [columns, *([result[name] for name in columns] for result in results)]
        write_text(output / "resolutions.csv", csv_text(rows))
        terminal.say(f"\n{resolutions_text(results)}\n")
        terminal.say(f"in {output}: resolutions.csv, and a folder for each resolution")


# Files


def prepare_folder(output: Path) -> None:
    """Create the folder of the reports, and remove the result of an earlier evaluation.

    Raises:
        UserError: it cannot be written.
    """
    with output_errors(output):
        output.mkdir(parents=True, exist_ok=True)
        (output / "result.json").unlink(missing_ok=True)


def view_metadata(settings: Settings) -> dict[str, Any]:
    """Entries of result.json about the model and its preprocessing."""
    if settings.task not in CLASSIFIERS:
        model = f"{settings.dense.head} with {settings.model.name}"
        return {"task": settings.task, "model": model, **settings.dense.only("limits", "scales", "flip")}
    return {
        "model": settings.model.name,
        "img_size": settings.img_size,
        **settings.eval.only(*VIEW),
        **settings.data.only("mean", "std"),
        "batch_size": settings.eval.batch_size,
    }


def run_metadata(trained: TrainedModel, number: int, processes: Processes, seconds: float) -> dict[str, Any]:
    """Entries of result.json that do not depend on the task.

    Args:
        number: images.
    """
    return {
        "parameters": count_parameters(trained.model),
        "checkpoint": str(trained.weights.path),
        "weights": trained.weights.source,
        "data": trained.settings.data.name,
        "data_root": trained.settings.data.root,
        "dtype": trained.precision.name,
        "device": trained.precision.device.type,
        "processes": processes.world_size,
        "seconds": round(seconds, 3),
        "images_per_second": round(number / seconds, 2),
    }


def write_files(
    config: Settings, trained: TrainedModel, val_set: Dataset, evaluation: Any, folder: Path, metadata: dict[str, Any]
) -> tuple[dict[str, Any], str]:
    """Write the result files of the task; return the content of result.json and the text for the terminal.

    Args:
        evaluation: evaluation of the task, from `run_evaluation`.
        metadata: entries of result.json that are not results.
    """

    def scene(index: int) -> tuple:
        image = val_set.images.read(index)
        return image, val_set.images.read_labels(index), np.asarray(trained.segment(image), np.uint8)

    classes = val_set.classes
    match trained.settings.task:
        case "classification":
            result = write_report(evaluation, classes, val_set.samples, folder, metadata)
            text = result_text(evaluation, classes)
        case "multilabel":
            result = write_multilabel_report(evaluation, classes, val_set.samples, folder, metadata)
            text = multilabel_text(evaluation, classes)
        case "segmentation":
            result = write_segmentation_report(evaluation, classes, scene, folder, metadata)
            text = segmentation_text(evaluation, classes)
        case "detection":
            options = {"detect": trained.detect, "min_score": config.score}
            result = write_detection_report(evaluation, val_set, folder, metadata, **options)
            text = detection_text(evaluation, classes)
    return result, text


# Texts for the user


def result_topics(result: dict[str, Any], trained: TrainedModel, val_set: Dataset) -> list[tuple[str, str]]:
    """(topic, text) pairs about an evaluation, from its result.json."""
    topics = [
        ("weights", f"{result['checkpoint']} ({result['weights']})"),
        *(("", note) for note in trained.weights.notes),
        ("model", f"{result['model']}, {result['parameters'] / 1e6:.2f} M parameters"),
        ("data", f"{result['data']}, {result['data_root'] or 'generated'}"),
        *(("", note) for note in getattr(val_set, "notes", ())),
        ("device", f"{result['device']}, {result['dtype']}, {result['images_per_second']:,.0f} images/s"),
    ]
    if unreadable := result["unreadable"]:
        count = len(unreadable)
        topics.append(("unreadable", f"{count:,} image{'s' * (count > 1)}, left out of all numbers:"))
        topics += [("", path) for path in unreadable[:MAX_NAMED_FILES]]
        if count > MAX_NAMED_FILES:
            topics.append(("", "..."))
    if "crop_pct" in result:
        resized = int(result["img_size"] / result["crop_pct"] + 1e-6)
        crop = f"{result['resize']} to {resized}, center crop {result['img_size']}"
        topics.append(("images", f"{crop}, {result['interpolation']}"))
    if result.get("ece") is not None:
        topics.append(("calibration", f"error {result['ece']:.2f} % (ECE, {len(result['reliability'])} intervals)"))
    return topics


def print_result(terminal: Terminal, topics: Sequence[tuple[str, str]], text: str, output: Path) -> None:
    """Print the topics of an evaluation, its result, and the files in `output`."""
    names = [name for name in (*FILES, *FILES_OF_SCENES) if (output / name).exists()]
    terminal.say(table(topics))
    terminal.say(f"\n{text}\n")
    terminal.say(f"in {output}: {', '.join(names)}")


def resolutions_text(results: Sequence[dict]) -> str:
    """Results at several resolutions, from their result.json, as aligned lines for the terminal."""
    metrics = [name for name in ("top1", "top5", "map", "f1") if name in results[0]]
    titles = "".join(f"{title(name):>8}  " for name in metrics)
    lines = [f"{'pixels':>6}  {titles}{'loss':>8}  {'images/s':>9}"]
    for result in results:
        loss = "-" if result["loss"] is None else f"{result['loss']:.4f}"
        values = "".join(f"{'-' if result[name] is None else f'{result[name]:.2f} %':>8}  " for name in metrics)
        lines.append(f"{result['img_size']:>6}  {values}{loss:>8}  {result['images_per_second']:>9,.0f}")
    return "\n".join(lines)


if __name__ == "__main__":
    # cli/ is the layer above commands/, which must not import it elsewhere; hence the import by name.
    import_module("dat_train.cli.main").main("eval")
