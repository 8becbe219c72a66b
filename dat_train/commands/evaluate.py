"""dat-eval: checkpoint and settings -> model and images -> evaluation -> report."""

from importlib import import_module
from pathlib import Path

from torch import nn

from dat_train.atomic import write_text
from dat_train.choices import CLASSIFIERS
from dat_train.commands.build_data import VIEW
from dat_train.commands.build_model import new_model
from dat_train.commands.checkpoint_settings import trained_with
from dat_train.commands.evaluate_dense import evaluate_dense
from dat_train.commands.evaluating import run_evaluation
from dat_train.commands.evaluation_data import evaluation_set, set_view
from dat_train.commands.model_defaults import with_model_defaults
from dat_train.commands.open_checkpoint import open_checkpoint
from dat_train.commands.output_folder import output_errors, output_folder
from dat_train.commands.request import Request
from dat_train.data.dataset import ImageDataset
from dat_train.evaluation.classification import Evaluation
from dat_train.evaluation.classification_files import result_text, write_report
from dat_train.evaluation.multilabel import MultiLabelEvaluation
from dat_train.evaluation.multilabel_files import multilabel_text, write_multilabel_report
from dat_train.evaluation.resolutions import resolutions_csv, resolutions_text
from dat_train.models import count_parameters, load_weights
from dat_train.models.checkpoint import Checkpoint
from dat_train.models.kernels import accelerate
from dat_train.models.weights import LoadReport
from dat_train.runtime.precision import Precision, resolve_precision
from dat_train.runtime.processes import Processes, start_processes, stop_processes
from dat_train.runtime.terminal import Terminal
from dat_train.settings import Settings
from dat_train.training.summary import table

MAX_NAMED_FILES = 5  # unreadable images on the terminal; result.json has all


def run(config: Settings, request: Request) -> None:
    """Evaluate the checkpoint and write the reports.

    Raises:
        UserError: errors the user can fix.
    """
    checkpoint = open_checkpoint(config)
    settings = with_model_defaults(request.settings_for(trained_with(checkpoint), str(checkpoint.path), True))
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
    processes.on_main(lambda: make(output))  # before the evaluation, which may take hours
    if settings.task not in CLASSIFIERS:
        evaluate_dense(config, settings, checkpoint=checkpoint, processes=processes, terminal=terminal, output=output)
        return
    precision = resolve_precision(settings.dtype, processes.device)
    val_set = evaluation_set(settings, checkpoint, processes)
    model = new_model(settings, len(val_set.classes))
    weights = load_weights(model, checkpoint, ema=config.ema)
    accelerate(model.to(processes.device, precision.weights), processes.device, config.kernels)
    results = []
    for size in config.img_sizes or [settings.img_size]:
        settings = settings.changed(img_size=size)
        set_view(val_set, settings)
        evaluation, seconds = run_evaluation(
            settings, processes, terminal=terminal, precision=precision, model=model, val_set=val_set
        )
        if processes.is_main:
            terminal.close()
            facts = facts_of(settings, model, weights, precision)
            facts |= {"processes": processes.world_size, "seconds": round(seconds, 3)}
            facts |= {"images_per_second": round(len(val_set) / seconds, 2)}
            folder = output / str(size) if config.img_sizes else output
            write = write_multilabel_report if settings.task == "multilabel" else write_report
            results.append(write(evaluation, val_set.classes, val_set.samples, folder, facts))
            print_result(terminal, evaluation, val_set=val_set, facts=results[-1], weights=weights, output=folder)
    if config.img_sizes and processes.is_main:
        write_text(output / "resolutions.csv", resolutions_csv(results))
        terminal.say(f"\n{resolutions_text(results)}\n")
        terminal.say(f"in {output}: resolutions.csv, and a folder for each resolution")


# The parts


def make(output: Path) -> None:
    """Create the folder of the reports.

    Raises:
        UserError: it cannot be written.
    """
    with output_errors(output):
        output.mkdir(parents=True, exist_ok=True)
        (output / "result.json").unlink(missing_ok=True)  # of an earlier evaluation


def facts_of(settings: Settings, model: nn.Module, weights: LoadReport, precision: Precision) -> dict:
    """Entries of result.json in addition to the metrics."""
    return {
        "model": settings.model.name,
        "parameters": count_parameters(model),
        "checkpoint": str(weights.path),
        "weights": weights.source,
        "data": settings.data.name,
        "data_root": settings.data.root,
        "img_size": settings.img_size,
        **settings.eval.only(*VIEW),
        **settings.data.only("mean", "std"),
        "batch_size": settings.eval.batch_size,
        "dtype": precision.name,
        "device": precision.device.type,
    }


def print_result(
    terminal: Terminal,
    evaluation: Evaluation | MultiLabelEvaluation,
    val_set: ImageDataset,
    facts: dict,
    weights: LoadReport,
    output: Path,
) -> None:
    """Print the result."""
    crop = f"{facts['resize']} to {int(facts['img_size'] / facts['crop_pct'] + 1e-6)}, centre crop {facts['img_size']}"
    topics = [
        ("weights", f"{facts['checkpoint']} ({facts['weights']})"),
        *(("", note) for note in weights.notes),
        ("model", f"{facts['model']}, {facts['parameters'] / 1e6:.2f} M parameters"),
        ("data", f"{facts['data']}, {facts['data_root'] or 'made on the fly'}"),
        *(("", note) for note in val_set.notes),
        ("images", f"{crop}, {facts['interpolation']}"),
        ("device", f"{facts['device']}, {facts['dtype']}, {facts['images_per_second']:,.0f} images/s"),
    ]
    if evaluation.unreadable:
        count = len(evaluation.unreadable)
        topics.append(("unreadable", f"{count:,} image{'s' * (count > 1)}, left out of all numbers:"))
        topics += [("", path) for path in evaluation.unreadable[:MAX_NAMED_FILES]]
        if len(evaluation.unreadable) > MAX_NAMED_FILES:
            topics.append(("", "..."))
    if facts.get("ece") is not None:
        topics.append(("calibration", f"error {facts['ece']:.2f} % (ECE, {len(facts['reliability'])} intervals)"))
    names = ("result.json", "per_class.csv", "confused.csv", "wrong.csv", "wrong.png")
    names = [name for name in names if (output / name).exists()]
    text = multilabel_text if isinstance(evaluation, MultiLabelEvaluation) else result_text
    terminal.say(table(topics))
    terminal.say(f"\n{text(evaluation, val_set.classes)}\n")
    terminal.say(f"in {output}: {', '.join(names)}")


if __name__ == "__main__":
    # The command line is a floor above, so it is imported by name and only here.
    import_module("dat_train.cli.main").main("eval")
