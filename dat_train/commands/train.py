"""What dat-train does: config -> parts -> run -> report."""

import sys
from importlib import import_module
from pathlib import Path

import torch
from torch import nn

from dat_train import __version__
from dat_train.atomic import read_json, write_text
from dat_train.commands.build_data import datasets, micro_batches
from dat_train.commands.build_model import new_model
from dat_train.commands.build_training import new_state, new_training, run_plan
from dat_train.commands.checkpoint_settings import continue_with
from dat_train.commands.request import Request
from dat_train.data.batch import prepare_images
from dat_train.data.dataset import ImageDataset
from dat_train.data.imagenet_tests import TEST_SETS
from dat_train.data.mixing import Mixing
from dat_train.errors import UserError
from dat_train.models import count_macs, count_parameters, load_weights
from dat_train.models.kernels import accelerate
from dat_train.runtime.precision import Precision, resolve_precision
from dat_train.runtime.processes import Processes, start_processes, stop_processes
from dat_train.runtime.stop_request import PREEMPTED, StopRequest
from dat_train.runtime.terminal import Terminal
from dat_train.settings import Settings
from dat_train.training import summary as report
from dat_train.training.changed_settings import differences
from dat_train.training.failure_report import last_words
from dat_train.training.freezing import freeze
from dat_train.training.memory_estimate import estimate_memory
from dat_train.training.plan import RunPlan
from dat_train.training.resume import open_run, restore
from dat_train.training.run_folder import RunFolder
from dat_train.viewer.batch_picture import write_batch_picture


def run(config: Settings, request: Request) -> None:
    """Train as `config` says; exits with PREEMPTED when asked to stop before the end.

    Raises:
        UserError: errors the user can fix.
    """
    if config.data.kind in TEST_SETS:
        raise UserError(f"data={config.data.name} is to test on, with dat-eval; it has no training images")
    with StopRequest() as stop:
        stop.at_once = True
        processes = start_processes(config.device, config.timeout_minutes, config.deterministic)
        terminal = Terminal(screen=processes.is_main)
        folder = RunFolder(Path(config.runs_dir) / config.name)
        try:
            with last_words(processes, terminal, folder.path):
                processes.check_same(config.as_yaml(), "configuration")
                processes.check_same(f"dat-train {__version__}\ntorch {torch.__version__}", "software")
                if config.show_batch:
                    done = show_batch(config, folder, processes, terminal)
                else:
                    done = train(config, request, folder, processes, terminal, stop)
        finally:
            terminal.close()
            folder.unlock()
        stop_processes()
    if not done:
        sys.exit(PREEMPTED)


def train(
    config: Settings, request: Request, folder: RunFolder, processes: Processes, terminal: Terminal, stop: StopRequest
) -> bool:
    """Train, or go on training, in `folder`; True when the run is finished, False when asked to stop before."""
    saved = take_folder(config, request, folder, processes, terminal)
    if saved and (summary := summary_of_finished(config, folder, saved)):
        terminal.say(f"{folder.path} is finished; a larger epochs=... would continue it")
        terminal.say(report.result_text(summary, folder))
        return True

    train_set, val_set = datasets(config, processes)
    plan = run_plan(config, len(train_set), processes)
    precision = resolve_precision(config.dtype, processes.device)
    model = new_model(config, len(train_set.classes))
    freeze(model, config.freeze)
    facts = {"parameters": count_parameters(model), "macs": count_macs(model, config.img_size, model.in_chans)}
    model = model.to(precision.weights)
    if not config.compile:  # the compiler gets the plain model
        accelerate(model, processes.device, config.kernels)
    say_plan(config, folder, terminal, plan, model, facts, precision, (train_set, val_set))
    if config.init and not saved:
        terminal.say(str(load_weights(model, config.init, classes=train_set.classes)))
    state = new_state(config, model.to(processes.device, precision.weights), precision, train_set.classes)
    restore(state, saved, folder, processes)
    if saved:
        going_on = f"going on after step {state.step:,} of {plan.steps:,}"
        done = f"at step {state.step:,} already, {plan.steps:,} were asked for"
        terminal.say(going_on if state.step < plan.steps else done)

    training = new_training(config, folder, processes, terminal, stop, plan, precision, state, (train_set, val_set))
    finished = training.run()
    if training.pictures:
        training.pictures.curves(state.step)
    training.log.close()

    if not finished:
        terminal.say(
            f"stopped by {stop.name or 'another process'} after step {state.step:,}; the same command continues"
        )
    elif processes.is_main:
        summary = report.summarize(folder, state, plan.batch_size, facts)
        terminal.say(report.result_text(summary, folder))
    return finished


# The run's folder


def take_folder(
    config: Settings, request: Request, folder: RunFolder, processes: Processes, terminal: Terminal
) -> dict | None:
    """Lock the folder, note the configuration in it, and return the checkpoint to go on from."""
    saved = open_run(folder, config.resume, processes, terminal.say)
    changed = []
    if saved:
        changed = differences(continue_with(config, saved["config"]), config.plain(), request.may_change)
    if changed:
        text = ", ".join(f"{key}={was} is {now} now" for key, was, now in changed)
        raise UserError(
            f"{folder.path} was begun with other settings: {text}; say the former ones to continue it, name=... for "
            "another run, or resume=never to begin it afresh"
        )
    terminal.log_path = folder.log if processes.is_main else folder.path / f"log-rank{processes.rank}.txt"
    if processes.is_main:
        write_text(folder.config, config.as_yaml())
    return saved


def summary_of_finished(config: Settings, folder: RunFolder, saved: dict) -> dict | None:
    """summary.json of a run that has nothing left to do."""
    summary = read_json(folder.summary)
    if summary is None:  # also when it is damaged: it is written again
        return None
    same_length = all(saved["config"][key] == config[key] for key in ("epochs", "max_steps"))
    return summary if same_length and summary["steps"] == saved["step"] else None


# What one sees


def say_plan(
    config: Settings,
    folder: RunFolder,
    terminal: Terminal,
    plan: RunPlan,
    model: nn.Module,
    facts: dict,
    precision: Precision,
    sets: tuple[ImageDataset, ImageDataset],
) -> None:
    """What the run is going to be."""
    if not terminal.screen:
        return
    train_set, val_set = sets
    shape = (len(config.data.mean), config.img_size, config.img_size)
    memory = estimate_memory(model, shape, plan.micro_batch_size, precision, bool(config.ema.decay))
    topics = [
        ("run", str(folder.path)),
        (
            "model",
            f"{config.model.name}, {facts['parameters'] / 1e6:.2f} M parameters, {facts['macs'] / 1e9:.2f} G MACs at "
            f"{config.img_size} x {config.img_size}",
        ),
        (
            "data",
            f"{config.data.name}: {len(train_set):,} images to train on, {len(val_set):,} to validate, "
            f"{len(train_set.classes):,} classes",
        ),
        *plan.describe(),
        ("device", f"{precision.device.type}, {precision.name}{', compiled' if config.compile else ''}"),
        ("memory", report.memory_text(memory)),
    ]
    terminal.say(report.table(topics))


def show_batch(config: Settings, folder: RunFolder, processes: Processes, terminal: Terminal) -> bool:
    """Write a picture of the run's first micro-batch, as the model would see it; True, for that is all."""
    train_set, _ = datasets(config, processes)  # by all processes, which wait for the main one in it
    if not processes.is_main:
        return True
    plan = run_plan(config, len(train_set), processes)
    batch = next(iter(micro_batches(config, train_set, plan, processes, 0)))
    images, targets = Mixing(len(train_set.classes), **config.mixing)(
        prepare_images(batch), batch.labels, "mixup", config.seed, 0, 0
    )
    folder.create()
    write_batch_picture(images, targets, train_set.classes, folder.batch_picture, config.data.mean, config.data.std)
    terminal.say(f"one batch, as the model sees it: {folder.batch_picture}")
    return True


if __name__ == "__main__":
    # The command line is a floor above, so it is imported by name and only here.
    import_module("dat_train.cli.main").main("train")
