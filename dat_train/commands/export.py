"""dat-export: checkpoint -> model -> files, compared with the checkpoint -> accuracies."""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from rich import box
from rich.console import Console
from rich.table import Table
from torch import nn

from dat_train.atomic import write_json
from dat_train.choices import CLASSIFIERS
from dat_train.commands.build_data import VIEW, evaluation_batches
from dat_train.commands.build_task import task_builders
from dat_train.commands.checkpoint_settings import trained_with
from dat_train.commands.evaluation_data import evaluation_set
from dat_train.commands.export_dense import export_dense
from dat_train.commands.model_defaults import with_model_defaults
from dat_train.commands.open_checkpoint import open_checkpoint
from dat_train.commands.output_folder import output_errors, output_folder
from dat_train.commands.request import Request
from dat_train.commands.trained import Trained, assemble
from dat_train.data.dataset import ImageDataset
from dat_train.errors import UserError
from dat_train.evaluation.classification import Evaluation, evaluate
from dat_train.evaluation.multilabel import MultiLabelEvaluation, evaluate_multilabel
from dat_train.export.model_card import model_card
from dat_train.export.onnx_file import OnnxModel, require_onnx, write_int8, write_onnx
from dat_train.export.preprocessing import Preprocessing
from dat_train.export.staging import EXPORTED, staged_folder
from dat_train.export.timm_folder import load_timm_folder, write_timm_folder
from dat_train.export.torch_export_file import ProgramModel, write_program
from dat_train.models.checkpoint import Checkpoint
from dat_train.run_report.metrics import title
from dat_train.runtime.processes import Processes
from dat_train.runtime.terminal import Terminal
from dat_train.settings import Settings

SINGLE = Processes(0, 1, 0, torch.device("cpu"))  # on the CPU, in one process
METRICS = ("top1", "top5", "map", "f1", "loss")  # of accuracy.json; the first of a task is its score
HUB_METRICS = {"top1": "accuracy", "map": "mean_average_precision"}  # names on the Hugging Face hub


def run(config: Settings, request: Request) -> None:
    """Export the model of config.ckpt.

    Raises:
        UserError: impossible settings, a checkpoint or data that cannot be used, or a folder that is not writable.
    """
    if config.int8 and config.format != "onnx":
        raise UserError(f"int8=true is for format=onnx, not for format={config.format}")
    if config.format == "onnx":
        require_onnx()
    measure = config.int8 if config.validate is None else config.validate
    checkpoint = open_checkpoint(config)
    settings = with_model_defaults(request.settings_for(trained_with(checkpoint), str(checkpoint.path), measure))
    settings = settings.changed(dtype="fp32")  # half precision is a property of a device, not of the file
    if settings.task not in CLASSIFIERS:
        export_dense(config, settings, checkpoint, measure)
        return
    trained = assemble(settings, checkpoint, config.ema, "cpu")
    steps = preprocessing(trained.settings)
    # opened before the export, which takes longer
    val_set = evaluation_set(settings, checkpoint, SINGLE) if measure else None
    output = output_folder(config.output, checkpoint.path, f"export/{config.format}")
    terminal = Terminal()
    terminal.say(str(trained.weights))
    for note in val_set.notes if val_set else ():
        terminal.say(note)

    with output_errors(output), staged_folder(output, EXPORTED) as folder:
        models = {"PyTorch": trained.model} | write(
            config, trained, checkpoint=checkpoint, steps=steps, folder=folder, terminal=terminal
        )
        if val_set is not None:
            found = {}
            for name, model in models.items():
                terminal.progress(len(found), len(models), f"evaluating {name}")
                found[name] = accuracy(model, trained, val_set)
            terminal.close()
            report(found, folder)
        names = sorted(path.name for path in folder.iterdir())
    terminal.say(f"in {output}: {', '.join(names)}")


# Files


def write(
    config: Settings,
    trained: Trained,
    checkpoint: Checkpoint,
    steps: Preprocessing,
    folder: Path,
    terminal: Terminal,
) -> dict[str, nn.Module]:
    """Write the export; return the models loaded from the written files, by name."""
    if config.format == "safetensors":
        text = card(config, trained, checkpoint, steps)
        task = trained.settings.get("task", "classification")
        write_timm_folder(trained.model, folder, trained.classes, steps, text, task=task)
        terminal.say("timm loads it with equal logits")
        return {"timm": load_timm_folder(folder)}

    size = steps.input_size
    text = steps.as_json(trained.classes, "sigmoid" if trained.multi_label else "softmax")
    names = json.dumps(trained.classes, ensure_ascii=False).encode("utf-8", "backslashreplace").decode()
    notes = {"preprocessing.json": text, "classes.json": names}
    (folder / "preprocessing.json").write_text(text + "\n", encoding="utf-8")
    if config.format == "torch_export":
        difference = write_program(trained.model, folder / "model.pt2", size, notes)
        models = {"torch_export": ProgramModel(folder / "model.pt2")}
    else:
        difference = write_onnx(trained.model, folder / "model.onnx", size, notes)
        models = {"onnx": OnnxModel(folder / "model.onnx")}
        if config.int8:
            write_int8(folder / "model.onnx", folder / "model.int8.onnx")
            models["onnx int8"] = OnnxModel(folder / "model.int8.onnx")
    terminal.say(f"logits within {difference:.1e} of PyTorch's")
    return models


def preprocessing(settings: Settings) -> Preprocessing:
    return Preprocessing(settings.img_size, **settings.eval.only(*VIEW), **settings.data.only("mean", "std"))


def card(config: Settings, trained: Trained, checkpoint: Checkpoint, steps: Preprocessing) -> str:
    """Model card with the facts about the training that the checkpoint holds."""
    content, settings = checkpoint.content, trained.settings
    facts = [("weights", trained.weights.source)]
    data = result = None
    score = task_builders(settings).score
    if "step" in content and "config" in content:  # of a run of ours
        data = settings.data.name
        value = score_of(config, content, score.name)
        result = None if value is None else (HUB_METRICS[score.name], value / 100)
        facts += [
            ("data", data),
            ("training", f"{content['epoch']} epochs, {content['step']:,} steps of {settings.batch_size} images"),
            ("optimizer", f"AdamW, learning rate {settings.optim.lr:g}, weight decay {settings.optim.weight_decay:g}"),
            ("augmentation", settings.augment.name),
            ("seed", str(settings.seed)),
        ]
        if value is not None:
            facts.append((f"{title(score.name)}, validation", f"{value:.2f} %"))
    return model_card(
        trained.model,
        name=settings.name or settings.model.name,
        classes=trained.classes,
        preprocessing=steps,
        facts=facts,
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


def accuracy(model: nn.Module, trained: Trained, val_set: ImageDataset) -> Evaluation | MultiLabelEvaluation:
    settings = trained.settings
    if trained.multi_label:
        batches = evaluation_batches(settings, val_set, SINGLE)
        return evaluate_multilabel(model, batches, precision=trained.precision)
    return evaluate(
        model,
        evaluation_batches(settings, val_set, SINGLE),
        num_classes=len(trained.classes),
        precision=trained.precision,
        subset=val_set.subset,
        valid_labels=val_set.right,
    )


def report(found: dict[str, Evaluation | MultiLabelEvaluation], folder: Path) -> None:
    """Print the accuracies, and write them to accuracy.json."""
    before = next(iter(found.values()))
    rows = [
        {
            "model": name,
            **{metric: getattr(result, metric) for metric in METRICS if hasattr(result, metric)},
            "images": result.count,
            # labels of all images and classes for several labels per image
            "other_predictions": int((result.predicted != before.predicted).sum()),
            "predictions": result.predicted.size,
        }
        for name, result in found.items()
    ]
    write_json(folder / "accuracy.json", rows)
    Console(highlight=False).print(accuracy_table(rows))


def accuracy_table(rows: Sequence[dict]) -> Table:
    """Score, loss, and differences to the first row."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    score = next(metric for metric in METRICS if metric in rows[0])
    table.add_column("model")
    for heading in (title(score), "cost", "loss", "other predictions"):
        table.add_column(heading, justify="right")
    for row in rows:
        cost = rows[0][score] - row[score]
        table.add_row(
            row["model"],
            f"{row[score]:.2f} %",
            f"{cost:+.2f}" if row is not rows[0] else "",
            f"{row['loss']:.4f}",
            f"{row['other_predictions']:,} of {row['predictions']:,}" if row is not rows[0] else "",
        )
    return table
