"""What every command shares: composing its settings with Hydra, help, and errors of one line.

A command is `run_command(COMMAND, task)`: `task` gets the composed settings, and imports torch only then.
"""

import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from dat_train import __version__
from dat_train.commands.command import Command
from dat_train.config import TrainConfig, to_dict, validate
from dat_train.errors import UserError

if TYPE_CHECKING:
    from omegaconf import DictConfig

UNSET = "unset"  # what conf/train.yaml says of a group that has no default
FULL_LR_BATCH = 1024  # images that linear_lr's rate is for


def conf_dir() -> Path:
    """The configuration tree: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).parents[1]
    installed = package / "conf"
    return installed if installed.is_dir() else package.parent / "conf"


def choices(group: str) -> list[str]:
    """Names of a configuration group, e.g. of the models."""
    return sorted(path.stem for path in (conf_dir() / group).glob("*.yaml"))


def run_command(command: Command, task: Callable[["DictConfig"], None]) -> NoReturn:
    """Compose the settings of `command` from conf/NAME.yaml and the command line, run `task`, exit.

    Exit codes: 0; 1 an unexpected error, with its traceback; 2 something the user can mend, one line; 130 interrupted;
    and whatever `task` exits with itself.
    """
    from dat_train.commands import help as helping

    arguments = sys.argv[1:]
    if not arguments:
        print(helping.usage(command))
    elif {"-h", "--help"} & set(arguments):
        print(helping.full(command))
    elif "--version" in arguments:
        print(f"dat-train {__version__}")
    else:
        try:
            _launch(command, task)
        except UserError as error:
            _stop(f"error: {error}", 2)
        except KeyboardInterrupt:
            _stop("interrupted", 130)
    sys.exit(0)


def register(name: str, schema: type) -> None:
    """Tell Hydra what conf/NAME.yaml refers to: its schema, the resolver linear_lr, and `unset` choices."""
    from hydra.core.config_store import ConfigStore
    from omegaconf import OmegaConf

    OmegaConf.register_new_resolver("linear_lr", linear_lr, replace=True)
    ConfigStore.instance().store(name=f"schema_{name}", node=schema)
    for group in ("model", "data"):  # where none is chosen; Hydra composes a sweep over models without one, first
        ConfigStore.instance().store(group=group, name=UNSET, node={})


def _launch(command: Command, task: Callable[["DictConfig"], None]) -> None:
    """Hand over to Hydra, which composes the settings and calls the task once, or for every job of a sweep."""
    import hydra
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    from dat_train.commands.overrides import composition_error, read_arguments

    os.environ["HYDRA_FULL_ERROR"] = "1"  # let errors through; they are translated here
    sys.argv[1:], overrides, unnamed = read_arguments(command, sys.argv[1:])
    swept = {key for key, override in overrides.items() if override.is_sweep_override()}
    register(command.name, command.schema)

    def checked_task(config: "DictConfig") -> None:
        # Hydra would let the other jobs of a sweep go on after a UserError, so it becomes an exit right here
        try:
            register(command.name, command.schema)  # a sweep's job may run in another process
            if unnamed:
                config[command.positional] = unnamed  # not through Hydra, whose grammar file names need not follow
            _complete(command, config, swept)
        except OmegaConfBaseException as error:
            _stop(f"error: {composition_error(command, error)}", 2)
        except UserError as error:
            _stop(f"error: {error}", 2)
        try:
            task(config)
        except UserError as error:
            _stop(f"error: {error}", 2)

    try:
        hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name=command.name)(checked_task)()
    except (HydraException, OmegaConfBaseException, YAMLError) as error:
        raise UserError(composition_error(command, error)) from None


def _complete(command: Command, config: "DictConfig", swept: set[str]) -> None:
    """Resolve the composed settings, check that none is missing or impossible, and name the run."""
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf

    for group in command.groups:
        if HydraConfig.get().runtime.choices[group] == UNSET:
            raise UserError(f"{group} is not set: {group}=NAME with one of {', '.join(choices(group))}")
    OmegaConf.resolve(config)
    for key in sorted(OmegaConf.missing_keys(config)):
        hint = "ckpt=PATH, e.g. runs/digits/checkpoints/best.pt" if key == "ckpt" else f"{key}=VALUE"
        if key == command.positional:
            hint = f"dat-{command.name} {key.upper()} ..."
        raise UserError(f"{key} is not set: {hint}; dat-{command.name} --help tells more")
    validate(to_dict(config), command.schema)
    if command.schema is TrainConfig:
        config.name = _run_name(config, swept)


def linear_lr(rate: float, batch_size: int) -> float:
    """A learning rate per 1024 images for another batch size, by the linear scaling rule (Goyal et al., 2017).

    conf/ says ${linear_lr:1e-3,${batch_size}}.
    """
    return float(rate) * batch_size / FULL_LR_BATCH


def _run_name(config: "DictConfig", swept: set[str]) -> str:
    """The run's folder: as named, or MODEL-DATA; in a sweep with what is swept, so that no two runs share one."""
    from hydra.core.hydra_config import HydraConfig

    name = config.name or f"{config.model.name}-{config.data.name}"
    if "name" in swept:
        return name
    told = set() if config.name else {"model", "data"}  # they are in the name already
    job = HydraConfig.get()
    swept = swept | set(job.sweeper.get("params") or {})  # a sweep may also stand in a configuration file
    values = {key.lstrip("+"): value for key, _, value in (item.partition("=") for item in job.overrides.task)}
    told_now = (f"{key}_{_plain(values[key])}" for key in sorted(swept - told) if key in values)
    return "-".join([name, *told_now])


def _plain(value: str) -> str:
    """A setting's value as part of a folder's name that needs no quotes on a command line."""
    return re.sub(r"[^\w.+-]+", "_", value).strip("_")


def is_main_process() -> bool:
    """Whether this is the process that speaks, under torchrun."""
    return os.environ.get("RANK", "0") == "0"


def _stop(message: str, code: int) -> NoReturn:
    """Say one line and exit."""
    if is_main_process():
        print(re.sub(r"\s*\n\s*", " ", message.strip()), file=sys.stderr, flush=True)
    sys.exit(code)
