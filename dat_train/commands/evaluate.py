"""dat-eval: checkpoint and settings -> model and images -> evaluation -> report."""

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from dat_train.atomic import csv_text, write_text
from dat_train.choices import CLASSIFIERS
from dat_train.commands.build_data import VIEW
from dat_train.commands.checkpoint_settings import open_checkpoint
from dat_train.commands.evaluate_dense import evaluate_dense
from dat_train.commands.evaluating import common_facts, print_result, result_topics, run_evaluation
from dat_train.commands.evaluation_data import evaluation_set, set_view
from dat_train.commands.output_folder import output_errors, output_folder
from dat_train.commands.trained import assemble
from dat_train.evaluation.classification_files import result_text, write_report
from dat_train.evaluation.multilabel_files import multilabel_text, write_multilabel_report
from dat_train.models.checkpoint import Checkpoint
from dat_train.models.kernels import accelerate
from dat_train.run_report.metrics import title
from dat_train.runtime.processes import Processes, start_processes, stop_processes
from dat_train.runtime.terminal import Terminal
from dat_train.settings import CommandLine, Settings

COLUMNS = ("img_size", "top1", "top5", "map", "f1", "macro_f1", "loss", "ece", "images_per_second")  # resolutions.csv


def run(config: Settings, command_line: CommandLine) -> None:
    """Evaluate the checkpoint and write the reports."""
    checkpoint, settings = open_checkpoint(config, command_line, images=True)
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
    processes.on_main(lambda: create_folder(output))  # before the evaluation, which may take hours
    if settings.task not in CLASSIFIERS:
        evaluate_dense(config, settings, checkpoint=checkpoint, processes=processes, terminal=terminal, output=output)
        return
    val_set = evaluation_set(settings, checkpoint, processes)
    trained = assemble(settings, checkpoint, config.ema, str(processes.device))
    accelerate(trained.model, processes.device, config.kernels)
    multi_label = settings.task == "multilabel"
    write, text = (write_multilabel_report, multilabel_text) if multi_label else (write_report, result_text)
    results = []
    for size in config.img_sizes or [settings.img_size]:
        settings = settings.changed(img_size=size)
        set_view(val_set, settings)
        precision = trained.precision
        found, seconds = run_evaluation(
            settings, val_set, trained.model, precision=precision, processes=processes, terminal=terminal
        )
        if processes.is_main:
            terminal.close()
            facts = {
                "model": settings.model.name,
                "img_size": size,
                **settings.eval.only(*VIEW),
                **settings.data.only("mean", "std"),
                "batch_size": settings.eval.batch_size,
                **common_facts(trained, len(val_set), processes, seconds),
            }
            folder = output / str(size) if config.img_sizes else output
            results.append(write(found, val_set.classes, val_set.samples, folder, facts))
            topics = result_topics(facts, trained, val_set, found.unreadable) + view_topics(results[-1])
            print_result(terminal, topics, text(found, val_set.classes), folder)
    if config.img_sizes and processes.is_main:
        columns = [name for name in COLUMNS if name in results[0]]  # depends on the task
        rows = [columns, *([result[name] for name in columns] for result in results)]
        write_text(output / "resolutions.csv", csv_text(rows))
        terminal.say(f"\n{resolutions_text(results)}\n")
        terminal.say(f"in {output}: resolutions.csv, and a folder for each resolution")


def create_folder(output: Path) -> None:
    """Create the folder of the reports.

    Raises:
        UserError: it cannot be written.
    """
    with output_errors(output):
        output.mkdir(parents=True, exist_ok=True)
        (output / "result.json").unlink(missing_ok=True)  # of an earlier evaluation


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


def view_topics(result: dict) -> list[tuple[str, str]]:
    """(topic, text) pairs about resizing and calibration, from result.json."""
    resized = int(result["img_size"] / result["crop_pct"] + 1e-6)
    crop = f"{result['resize']} to {resized}, centre crop {result['img_size']}"
    topics = [("images", f"{crop}, {result['interpolation']}")]
    if result.get("ece") is not None:
        topics.append(("calibration", f"error {result['ece']:.2f} % (ECE, {len(result['reliability'])} intervals)"))
    return topics


if __name__ == "__main__":
    # The command line is a floor above, so it is imported by name and only here.
    import_module("dat_train.cli.main").main("eval")
