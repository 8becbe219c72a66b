"""What every command shares: composing its settings with Hydra, help, and errors of one line.

A command is `run_command("train", task)`: `task` gets the resolved settings, and imports torch only then.
"""

import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from dat_train import __version__
from dat_train.config import SCHEMAS, validate
from dat_train.errors import UserError

if TYPE_CHECKING:
    from omegaconf import DictConfig

FULL_LR_BATCH = 1024  # images that linear_lr's rate is for


def conf_dir() -> Path:
    """The configuration tree: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).parents[1]
    installed = package / "conf"
    return installed if installed.is_dir() else package.parent / "conf"


def choices(group: str) -> list[str]:
    """Names of a configuration group, e.g. of the models."""
    return sorted(path.stem for path in (conf_dir() / group).glob("*.yaml"))


def run_command(name: str, task: Callable[["DictConfig"], None]) -> NoReturn:
    """Compose the settings of command `name` from conf/NAME.yaml and the command line, run `task`, exit.

    Exit codes: 0; 1 an unexpected error, with its traceback; 2 something the user can mend, one line; 130 interrupted.
    """
    from dat_train.commands import help as helping

    arguments = sys.argv[1:]
    if not arguments:
        print(helping.usage(name))
        sys.exit(0)
    if {"-h", "--help"} & set(arguments):
        print(helping.full(name))
        sys.exit(0)
    if "--version" in arguments:
        print(f"dat-train {__version__}")
        sys.exit(0)
    try:
        _launch(name, task)
    except UserError as error:
        _stop(str(error), 2)
    except KeyboardInterrupt:
        _stop("interrupted", 130)
    sys.exit(0)


def _launch(name: str, task: Callable[["DictConfig"], None]) -> None:
    """Hand over to Hydra, which composes the settings and calls the task once, or for every job of a sweep."""
    import hydra
    from hydra.core.config_store import ConfigStore
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    from dat_train.commands.overrides import check_overrides, composition_error

    os.environ["HYDRA_FULL_ERROR"] = "1"  # let errors through; they are translated here
    ConfigStore.instance().store(name=f"schema_{name}", node=SCHEMAS[name])
    OmegaConf.register_new_resolver("linear_lr", _linear_lr, replace=True)
    sys.argv[1:] = check_overrides(name, sys.argv[1:])

    def checked_task(config: "DictConfig") -> None:
        try:
            OmegaConf.resolve(config)
            missing = OmegaConf.missing_keys(config)
            if missing:
                raise UserError(_missing_text(name, sorted(missing)[0]))
            validate(OmegaConf.to_container(config))
        except OmegaConfBaseException as error:
            raise SystemExit(_exit_code(composition_error(name, error))) from None
        except UserError as error:
            raise SystemExit(_exit_code(str(error))) from None
        try:
            task(config)
        except UserError as error:  # here, not above: Hydra would add a line of its own
            raise SystemExit(_exit_code(str(error))) from None

    try:
        hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name=name)(checked_task)()
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(composition_error(name, error)) from None


def _linear_lr(rate: float, batch_size: int) -> float:
    """A learning rate per 1024 images for another batch size, by the linear scaling rule (Goyal et al., 2017)."""
    return float(rate) * batch_size / FULL_LR_BATCH


def _missing_text(name: str, key: str) -> str:
    hints = {
        "ckpt": "ckpt=PATH, e.g. dat-eval ckpt=runs/digits/checkpoints/best.pt",
        "init": "init=PATH, the weights to fine-tune (init=null starts from nothing)",
    }
    return f"{key} is not set: {hints.get(key, f'{key}=VALUE')}; dat-{name} --help tells more"


def is_main_process() -> bool:
    """Whether this is the process that speaks, under torchrun."""
    return os.environ.get("RANK", "0") == "0"


def _exit_code(message: str) -> int:
    """Say one line, and return the exit code of what the user can mend."""
    if is_main_process():
        print("error: " + re.sub(r"\s*\n\s*", " ", message.strip()), file=sys.stderr, flush=True)
    return 2


def _stop(message: str, code: int) -> NoReturn:
    _exit_code(message)
    sys.exit(code)
