"""dat-average: checkpoints -> their weights -> the average -> a checkpoint."""

import shlex
from pathlib import Path

from torch import Tensor

from dat_train.choices import CLASSIFIERS
from dat_train.commands.build_model import build_model, classifiers, with_model_defaults
from dat_train.commands.build_task import task_builders
from dat_train.commands.evaluation_run import evaluation_set, run_evaluation
from dat_train.commands.load_trained import number_of_classes
from dat_train.commands.output_folder import output_errors
from dat_train.commands.saved_settings import trained_with
from dat_train.data.fingerprint import class_difference
from dat_train.errors import UserError
from dat_train.models.kernels import accelerate
from dat_train.models.weights.averaging import average_states, greedy_soup
from dat_train.models.weights.checkpoint import Checkpoint
from dat_train.models.weights.loading import count_classes, load_weights
from dat_train.runtime.checkpoint_file import save_checkpoint
from dat_train.runtime.precision import resolve_precision
from dat_train.runtime.processes import start_processes
from dat_train.runtime.terminal import Terminal
from dat_train.settings import CommandLine, Settings

GREEDY = "greedy"


def run(config: Settings, command_line: CommandLine) -> None:
    """Average the checkpoints and write the result.

    Raises:
        UserError: fewer than two checkpoints, a file that is not a checkpoint, or models that differ.
    """
    if len(config.ckpt) < 2:
        raise UserError(f"ckpt has {len(config.ckpt)} checkpoint, an average needs two: dat-average CKPT CKPT ...")
    first = Checkpoint.open(config.ckpt[0])
    images = config.kind == GREEDY
    settings = with_model_defaults(command_line.settings_for(trained_with(first), config.ckpt[0], images))
    terminal = Terminal()
    try:
        states = [_state(settings, first, config.ema)]
        for path in config.ckpt[1:]:
            other = Checkpoint.open(path)
            same_number = len(first.classes) == len(other.classes)
            if same_number and (difference := class_difference(first.classes, other.classes)):
                raise UserError(f"{path} has other {difference}, compared with {config.ckpt[0]}")
            states.append(_state(settings, other, config.ema))
        chosen = list(range(len(states)))
        if config.kind == GREEDY:
            chosen, state = _greedy(settings, first, terminal, states, config.device)
        else:
            state = average_states(states)
    finally:
        terminal.close()
    members = [config.ckpt[number] for number in chosen]
    classes = first.classes
    output = Path(config.output)
    with output_errors(output, "PATH"):
        output.parent.mkdir(parents=True, exist_ok=True)
        save_checkpoint({"model": state, "config": settings.plain(), "classes": classes, "average": members}, output)
    terminal.say(f"the average of {', '.join(members)}")
    terminal.say(f"in {output}; to evaluate it:\n  dat-eval {shlex.quote(f'ckpt={output}')}")


def _state(settings: Settings, checkpoint: Checkpoint, ema: bool | None) -> dict[str, Tensor]:
    """Weights of a checkpoint by the model's parameter names."""
    if settings.task in CLASSIFIERS:  # also of backbones without a classifier
        number = count_classes(checkpoint, classifiers(settings.model.timm_name)) or 0
    else:
        number = number_of_classes(settings, checkpoint)
    model = build_model(settings, number)
    load_weights(model, checkpoint, ema=ema)
    return model.state_dict()


def _greedy(
    settings: Settings, first: Checkpoint, terminal: Terminal, states: list[dict[str, Tensor]], device: str
) -> tuple[list[int], dict[str, Tensor]]:
    """Greedy soup on the validation set: indices of the averaged checkpoints, and their average."""
    average_states(states)  # raises an error for models that differ before any of them is evaluated
    processes = start_processes(device)
    precision = resolve_precision(settings.dtype, processes.device)
    task_score = task_builders(settings).score
    val_set = evaluation_set(settings, first, processes)
    model = build_model(settings, len(val_set.classes)).to(processes.device, precision.weights_dtype)
    accelerate(model, processes.device)

    def score(state: dict[str, Tensor]) -> float:
        model.load_state_dict(state)
        options = {"precision": precision, "processes": processes, "terminal": terminal}
        found, _ = run_evaluation(settings, val_set, model, **options)
        return getattr(found, task_score.name)

    name = task_score.template.partition(" {")[0]
    terminal.say(f"{name} in percent on {settings.data.name}, {len(val_set):,} images")
    for note in getattr(val_set, "notes", ()):
        terminal.say(note)
    chosen, state, _ = greedy_soup(states, score, terminal.say)
    return chosen, state
