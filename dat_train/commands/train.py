"""dat-train: settings -> data, model, task -> training loop -> summary."""

import sys
from importlib import import_module
from pathlib import Path

import torch
from torch import nn

from dat_train import __version__
from dat_train.atomic import read_json, write_text
from dat_train.choices import TEST_SETS
from dat_train.commands.build_data import micro_batches
from dat_train.commands.build_model import build_model, with_model_defaults
from dat_train.commands.build_task import task_builders
from dat_train.commands.build_training import build_state, build_training, run_plan
from dat_train.commands.recipe_topics import recipe_topics
from dat_train.commands.saved_settings import keep_former_settings
from dat_train.data.dataset import ImageDataset
from dat_train.data.fingerprint import class_difference, data_difference, data_fingerprint, describe_data
from dat_train.errors import UserError
from dat_train.models import count_macs, count_parameters, load_weights
from dat_train.models.kernels import accelerate, is_accelerated, prefers_eager
from dat_train.runtime.display_text import table
from dat_train.runtime.environment import require_compiler
from dat_train.runtime.precision import Precision, resolve_precision
from dat_train.runtime.processes import start_processes, stop_processes
from dat_train.runtime.stop_request import PREEMPTED, StopRequest
from dat_train.runtime.terminal import Terminal
from dat_train.settings import CommandLine, Settings, upgraded
from dat_train.tasks.distillation import Distillation
from dat_train.training.failure_report import report_failure
from dat_train.training.freezing import freeze
from dat_train.training.memory_estimate import estimate_memory, memory_text
from dat_train.training.optimizer import check_name, state_size
from dat_train.training.plan import RunPlan
from dat_train.training.resume import differences, open_run, restore, resume_mode
from dat_train.training.run_context import RunContext
from dat_train.training.run_folder import RunFolder
from dat_train.training.summary import result_text, summarize
from dat_train.training.task import MicroBatchKey, Task

Sets = tuple[ImageDataset, ImageDataset]

WEIGHT_SOURCES = ("published", "timm")  # values of `init`: weights of the model from its authors or from timm


def run(config: Settings, command_line: CommandLine) -> None:
    """Train with the settings `config`. Exits with PREEMPTED if the run was asked to stop before its end."""
    if config.data.kind in TEST_SETS:
        raise UserError(f"data={config.data.name} is a test set, for dat-eval; it has no training images")
    if config.data.split is not None:
        raise UserError(
            f"data.split={config.data.split} is a setting of dat-eval; dat-train validates on val/, else test/, else "
            "on data.val_fraction of the images"
        )
    check_name(config.optim.name)  # before the data is read
    config = with_model_defaults(config)
    with StopRequest() as stop:
        stop.at_once = True
        processes = start_processes(config.device, config.timeout_minutes, config.deterministic)
        terminal = Terminal(screen=processes.is_main)
        context = RunContext(RunFolder(Path(config.runs_dir) / config.name), processes, terminal, stop)
        try:
            with report_failure(processes, terminal, context.folder.path):
                processes.check_same(config.as_yaml(), "configuration")
                processes.check_same(f"dat-train {__version__}\ntorch {torch.__version__}", "software")
                finished = show_batch(config, context) if config.show_batch else train(config, command_line, context)
        finally:
            terminal.close()
            context.folder.unlock()
        stop_processes()
    if not finished:
        sys.exit(PREEMPTED)


def train(config: Settings, command_line: CommandLine, context: RunContext) -> bool:
    """Start or continue the run. Returns False if it was asked to stop before its end."""
    folder, processes, terminal = context.folder, context.processes, context.terminal
    builders = task_builders(config)
    resume = resume_mode(config.resume, folder)
    saved = open_folder(config, command_line, context, resume)
    if saved and (summary := processes.on_main(lambda: summary_of_finished(config, folder, saved))):
        terminal.say(f"{folder.path} is finished; a larger epochs=... would continue it")
        terminal.say(result_text(summary, builders.score, folder))
        return True

    sets = train_set, _ = builders.datasets(config, processes)
    data = data_fingerprint(*sets)
    for part in ("train", "val"):  # each machine may have its own copy
        processes.check_same(f"{data[part]['images']:,} images, {data[part]['digest']}", f"{part} set")
    check_data(config, saved, data, context)
    plan = run_plan(config, len(train_set), processes.world_size)
    precision = resolve_precision(config.dtype, processes.device)
    model = build_model(config, len(train_set.classes))
    freeze(model, config.freeze)
    size = {
        "parameters": count_parameters(model),
        "macs": count_macs(countable(model), config.img_size, len(config.data.mean)),
    }
    model = model.to(precision.weights_dtype)
    if not config.compile or prefers_eager(model, processes.device, config.kernels):  # else the plain model is compiled
        accelerate(model, processes.device, config.kernels)
    else:
        require_compiler(processes.device)
    task = builders.task(config, train_set, precision)
    if terminal.screen:
        topics = data_and_model_topics(config, size, sets)
        topics += [*plan.describe(), *recipe_topics(config), *device_topics(config, model, task, plan, precision)]
        terminal.say(table([("run", str(folder.path)), *topics]))
    if config.init and not saved:
        source = f"{config.init}:{config.model.timm_name}" if config.init in WEIGHT_SOURCES else config.init
        terminal.say(str(load_weights(model, source, classes=train_set.classes)))
    state = build_state(config, model.to(processes.device, precision.weights_dtype), precision, train_set.classes)
    state.data = data
    restore(state, saved, context, resume)
    if processes.is_main:
        write_text(folder.config, config.as_yaml())
    if saved:
        continued = f"continuing after step {state.step:,} of {plan.steps:,}"
        done = f"already at step {state.step:,}; {plan.steps:,} were requested"
        terminal.say(continued if state.step < plan.steps else done)

    training = build_training(config, context, state=state, task=task, plan=plan, precision=precision, sets=sets)
    finished = training.run()
    if training.pictures:
        training.pictures.curves(state.step)
    training.log.close()

    if not finished:
        again = "the same command" if config.resume == "auto" else "the same command with resume=auto"
        by = context.stop.name or "another process"
        terminal.say(f"stopped by {by} after step {state.step:,}; {again} continues")
    elif processes.is_main:
        summary = summarize(folder, state, task.score, plan.batch_size, size)
        terminal.say(result_text(summary, task.score, folder))
    return finished


# Folder of the run


def open_folder(config: Settings, command_line: CommandLine, context: RunContext, resume: str) -> dict | None:
    """Lock the folder and return the checkpoint to continue from, if the settings allow it.

    Args:
        config: settings of this start; those that the run keeps are changed in place (`keep_former_settings`).
        resume: as in `open_run`.
    """
    folder, processes, changed = context.folder, context.processes, ""
    saved = open_run(context, resume)
    if saved:
        before = upgraded(saved["config"])
        keep_former_settings(config, before, command_line.computed)
        changed = check_settings(config, before, command_line, folder.path)
    context.terminal.log_path = folder.log if processes.is_main else folder.path / f"log-rank{processes.rank}.txt"
    if changed:
        context.terminal.warn(f"the run continues with changed settings: {changed}")
    return saved


def check_settings(config: Settings, before: dict, command_line: CommandLine, folder: Path) -> str:
    """Compare the settings with those of the run, and return the changes as text; "" without changes.

    Args:
        before: configuration in the run's checkpoint, as from `upgraded`.

    Raises:
        UserError: settings changed that affect the run's numbers, and config.resume_changed is not set.
    """
    changed = differences(before, config.plain(), command_line.may_change)
    text = ", ".join(f"{key}={was} is {now} now" for key, was, now in changed)
    if changed and not config.resume_changed:
        raise UserError(
            f"{folder} was started with other settings: {text}; use the former ones to continue it, "
            "resume_changed=true to continue it with these, name=... for another run, or resume=never to start it again"
        )
    return text


def check_data(config: Settings, saved: dict | None, data: dict, context: RunContext) -> None:
    """Compare the data with those of the run.

    Args:
        data: `data_fingerprint`.

    Raises:
        UserError: other classes, which would change the labels; or other images, unless config.resume_changed is set.
    """
    path, saved = context.folder.path, saved or {}
    names = saved.get("classes")
    difference = class_difference(names, data["classes"]) if names else None
    if difference:
        raise UserError(
            f"{path} was started with other {difference}; restore the former names to continue it, or name=... for "
            "another run"
        )
    before = saved.get("data")
    if saved and before is None and config.task == "classification":
        context.terminal.warn(
            "the run was started by version 0.1; from here on its images differ by rounding, see docs/input_pipeline.md"
        )
    difference = data_difference(before, data) if before else None
    if difference and not config.resume_changed:
        raise UserError(
            f"{path} was started with other data: {difference}; restore the former files to continue it, "
            "resume_changed=true to continue it with these, or name=... for another run"
        )
    if difference:
        context.terminal.warn(f"the run continues with changed data: {difference}")


def summary_of_finished(config: Settings, folder: RunFolder, saved: dict) -> dict | None:
    """Return summary.json if the run is finished, else None."""
    summary = read_json(folder.summary)
    if summary is None:  # missing or damaged; it is then written again
        return None
    same_length = all(saved["config"].get(key) == config[key] for key in ("epochs", "steps", "max_steps"))
    return summary if same_length and summary["steps"] == saved["step"] else None


# Texts for the user


def data_and_model_topics(config: Settings, size: dict, sets: Sets) -> list[tuple[str, str]]:
    """Format model and data as (topic, text) pairs."""
    train_set, val_set = sets
    notes = [("note", note) for note in dict.fromkeys((*train_set.notes, *getattr(val_set, "notes", ())))]
    return [
        (
            "model",
            f"{config.model.name}, {size['parameters'] / 1e6:.2f} M parameters, {size['macs'] / 1e9:.2f} G MACs at "
            f"{config.img_size} x {config.img_size}",
        ),
        (
            "data",
            f"{config.data.name}: {len(train_set):,} images for training, {len(val_set):,} for validation, "
            f"{len(train_set.classes):,} classes",
        ),
        *(describe_data(train_set, val_set) if isinstance(train_set, ImageDataset) else notes),
    ]


def device_topics(
    config: Settings, model: nn.Module, task: Task, plan: RunPlan, precision: Precision
) -> list[tuple[str, str]]:
    """Format device and memory as (topic, text) pairs."""
    shape = (len(config.data.mean), config.img_size, config.img_size)
    objective = getattr(task, "objective", None)
    teachers = [objective.teacher] if isinstance(objective, Distillation) else []
    memory = estimate_memory(
        countable(model),
        shape,
        plan.micro_batch_size,
        precision,
        ema=bool(config.ema.decay),
        optimizer_state=state_size(config.optim.name, config.optim.args),
        teachers=teachers,
    )
    compilation = ""
    if config.compile:
        eager = ", not compiled: the eager kernels are faster on a CPU (kernels=plain compiles)"
        compilation = eager if is_accelerated(model) else ", compiled"
    return [
        ("device", f"{precision.device.type}, {precision.name}{compilation}"),
        ("memory", memory_text(memory)),
    ]


def countable(model: nn.Module) -> nn.Module:
    """Part of a model whose only input is images; for a detector, backbone and pyramid."""
    return (
        nn.Sequential(model.backbone, model.neck)
        if hasattr(model, "rpn_head") or hasattr(model, "bbox_head")
        else model
    )


def show_batch(config: Settings, context: RunContext) -> bool:
    """Draw the first micro-batch of the run as the model receives it, and return True."""
    builders, processes = task_builders(config), context.processes
    train_set, _ = builders.datasets(config, processes)  # in all processes: opening is a collective operation
    if not processes.is_main:
        return True
    plan = run_plan(config, len(train_set), processes.world_size)
    batch = next(iter(micro_batches(config, train_set, plan, processes, 0)))
    task = builders.task(config, train_set, resolve_precision(config.dtype, processes.device))
    context.folder.create()
    path = context.folder.picture("batch")
    task.draw_batch(batch, MicroBatchKey(config.seed, 0, 0), path)
    context.terminal.say(f"one batch, as the model sees it: {path}")
    return True


if __name__ == "__main__":
    # cli/ is the layer above commands/, which must not import it elsewhere; hence the import by name.
    import_module("dat_train.cli.main").main("train")
