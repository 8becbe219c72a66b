"""Composition of a command's settings by Hydra, and the call of the command for one run or each run of a sweep."""

import importlib
import os
import re
import sys
from collections.abc import Callable

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from dat_train.cli.arguments import read_arguments
from dat_train.cli.command_table import Command
from dat_train.cli.composition_errors import composition_error
from dat_train.cli.conf import UNSET, conf_dir
from dat_train.cli.derived_values import FUNCTIONS
from dat_train.cli.machine_faults import environment_error
from dat_train.cli.settings.paths import expand_paths
from dat_train.cli.settings.train import MAY_CHANGE, TrainConfig
from dat_train.cli.settings.value_checks import validate
from dat_train.cli.settings_for_checkpoint import settings_for_checkpoint
from dat_train.cli.streams import report_error
from dat_train.errors import UserError
from dat_train.settings import CommandLine, Settings, flat


def launch(command: Command, run: Callable[[Settings, CommandLine], object] | None = None) -> None:
    """Read the arguments in sys.argv, compose the settings and run the command.

    Args:
        run: function to call instead of the command's own.

    Raises:
        UserError: wrong arguments or settings. An error inside a run of a sweep exits at once.
    """
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises instead of printing; main translates
    sys.argv[1:], overrides, unnamed = read_arguments(command, sys.argv[1:])
    swept = {key for key, override in overrides.items() if override.is_sweep_override()}
    register(command.name, command.schema)

    def task(config: DictConfig) -> None:
        # Hydra would start the other runs of a sweep after a UserError, so it becomes an exit here
        try:
            register(command.name, command.schema)  # a run of a sweep may be in another process
            computed = computed_settings(config)
            settings = complete(command, config, unnamed, swept)
            work = run or importlib.import_module(f"dat_train.commands.{command.module}").run
            work(settings, command_line_of(command, settings, computed))
        except OmegaConfBaseException as error:
            sys.exit(report_error(f"error: {composition_error(command, error)}"))
        except UserError as error:
            sys.exit(report_error(f"error: {error}"))
        except Exception as error:
            if text := environment_error(error):
                sys.exit(report_error(f"error: {text}"))
            raise

    try:
        hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name=command.name)(task)()
    except (HydraException, OmegaConfBaseException, YAMLError) as error:
        raise UserError(composition_error(command, error)) from None


def register(name: str, schema: type) -> None:
    """Register with Hydra the schema of conf/NAME.yaml, the resolvers of conf/, and the choice `unset`."""
    for function in FUNCTIONS:
        OmegaConf.register_new_resolver(function.__name__, function, replace=True)
    ConfigStore.instance().store(name=f"schema_{name}", node=schema)
    for group in ("model", "data"):  # a sweep over models is first composed without a model
        ConfigStore.instance().store(group=group, name=UNSET, node={})


def complete(command: Command, config: DictConfig, unnamed: list[str], swept: set[str]) -> Settings:
    """Resolve the composed settings, check them, and name the run.

    Args:
        unnamed: arguments for the command's positional setting.
        swept: keys that a sweep varies.

    Raises:
        UserError: a setting that is missing or impossible.
    """
    chosen = HydraConfig.get().runtime.choices
    for group in command.groups:
        if chosen[group] == UNSET:
            raise UserError(f"{group} is not set: {group}=NAME with one of {', '.join(command.choices(group))}")
    OmegaConf.resolve(config)
    values = OmegaConf.to_container(config)
    if unnamed:
        values[command.positional] = unnamed  # as typed: Hydra's grammar does not apply to file names
    values = expand_paths(values, command.schema)
    for key in sorted(OmegaConf.missing_keys(config)):
        if key == command.positional and unnamed:
            continue
        hint = "ckpt=PATH, e.g. runs/digits" if key == "ckpt" else f"{key}=VALUE"
        if key == command.positional:
            hint = f"dat-{command.name} {key.upper()} ..."
        raise UserError(f"{key} is not set: {hint} (dat-{command.name} --help lists all settings)")
    validate(values, command.schema)
    if command.schema is TrainConfig:
        values["name"] = run_name(values, swept)
    return Settings(values)


def computed_settings(config: DictConfig) -> frozenset[str]:
    """Dotted keys whose value is a function of other settings, as ${warmup:20,300,${epochs}} is."""
    values = flat(OmegaConf.to_container(config))
    return frozenset(key for key, value in values.items() if isinstance(value, str) and value.startswith("${"))


def command_line_of(command: Command, config: Settings, computed: frozenset[str]) -> CommandLine:
    """CommandLine of the composed settings; `computed` as from `computed_settings`."""
    job = HydraConfig.get()
    chosen = {group: name for group in ("model", "data") if (name := job.runtime.choices.get(group))}
    typed = [override.lstrip("+").partition("=")[0] for override in job.overrides.task]

    def settings_for(trained: dict, ckpt: str, images: bool = True) -> Settings:
        register("train", TrainConfig)
        return settings_for_checkpoint(config, trained, ckpt, chosen=chosen, typed=typed, images=images)

    return CommandLine(settings_for, MAY_CHANGE, computed)


def run_name(values: dict, swept: set[str]) -> str:
    """Name of the run's folder: `name`, or MODEL-DATA; a sweep adds its values, so that no two runs share a folder."""
    name = values["name"] or f"{values['model']['name']}-{values['data']['name']}"
    in_name = {"name"} if values["name"] else {"model", "data"}
    job = HydraConfig.get()
    swept = swept | set(job.sweeper.get("params") or {})  # a configuration file may also declare a sweep
    typed = {key.lstrip("+"): value for key, _, value in (item.partition("=") for item in job.overrides.task)}
    for key in sorted(swept - in_name):
        if key in typed:
            value = re.sub(r"[^\w.+-]+", "_", typed[key]).strip("_")  # needs no quotes in a shell
            name += f"-{key}_{value}"
    return name
