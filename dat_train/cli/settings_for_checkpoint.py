"""Settings for a checkpoint: those of its training, or of a recipe, overridden by the command line."""

from collections.abc import Sequence
from typing import Any

from hydra import compose
from omegaconf import OmegaConf

from dat_train.cli.conf import choices
from dat_train.cli.settings.setting import settings
from dat_train.cli.settings.train import TrainConfig
from dat_train.cli.settings.value_checks import validate
from dat_train.errors import UserError
from dat_train.settings import Settings, flat, merged, nested

NORMALIZATION = ("mean", "std")  # in the group data, but a property of the trained model
MACHINE_SETTING = "device"  # of the machine the training ran on, not of the model
DEFAULT_DATA = "imagenet"  # source of normalization for released weights if no data is chosen


def settings_for_checkpoint(
    config: Settings, trained: dict[str, Any], ckpt: str, *, chosen: dict[str, str], typed: Sequence[str], images: bool
) -> Settings:
    """Return the settings of a training run from which the checkpoint's model, data and transform are built.

    Args:
        config: settings of dat-eval or another command that uses a trained model; null means as in the checkpoint.
        trained: configuration in the checkpoint, or {}; or {"experiment": NAME} for the settings of an experiment.
        ckpt: the checkpoint's path, for messages.
        chosen: typed choices of the groups model and data. A model replaces the checkpoint's model. Data replaces
            the data set and keeps the checkpoint's normalization and evaluation view.
        typed: keys of all settings that were typed.
        images: images of the data set will be read: data.root is required.

    Raises:
        UserError: model or data are known neither from the checkpoint nor from `chosen`; impossible settings.
    """
    trained, chosen = dict(trained), dict(chosen)
    if "experiment" in trained:
        return _of_experiment(trained["experiment"], config, chosen, typed, images)
    if "kind" not in trained.get("data", {}) and not images:
        chosen.setdefault("data", DEFAULT_DATA)
    _require(ckpt, chosen, trained)
    if "model" in chosen:
        trained.pop("model", None)
    if "data" in trained and "data" in chosen:
        trained["data"] = {name: trained["data"][name] for name in NORMALIZATION}

    defaults = compose("train", [f"{group}={name}" for group, name in chosen.items()])
    return _finished(merged(OmegaConf.to_container(defaults), trained), config, typed, images)


def _of_experiment(name: str, config: Settings, chosen: dict[str, str], typed: Sequence[str], images: bool) -> Settings:
    """Settings of conf/experiment/NAME.yaml with dtype=auto, overridden by the typed settings."""
    groups = [f"experiment={name}", *(f"{group}={choice}" for group, choice in chosen.items())]
    composed = OmegaConf.to_container(compose("train", groups))
    return _finished(composed | {"dtype": "auto"}, config, typed, images)


def _finished(settings: dict[str, Any], config: Settings, typed: Sequence[str], images: bool) -> Settings:
    """Checked settings, overridden by the typed ones."""
    whole = OmegaConf.create(merged(settings, _typed(config, typed)))
    OmegaConf.resolve(whole)
    plain = OmegaConf.to_container(whole) | {"init": None}  # weights the training started from are not needed
    validate(plain, TrainConfig, images=images)
    return Settings(plain)


def _require(ckpt: str, chosen: dict[str, str], trained: dict[str, Any]) -> None:
    decisive = {"model": "timm_name", "data": "kind"}
    missing = [group for group in decisive if group not in chosen and decisive[group] not in trained.get(group, {})]
    if missing:
        ways = " and ".join(f"{group}=NAME (one of {', '.join(choices(group))})" for group in missing)
        raise UserError(f"{ckpt} has no training settings: add {ways}")


def _typed(config: Settings, names: Sequence[str]) -> dict[str, Any]:
    """Nested values of the typed settings, with the names they have in dat-train; choices of groups are left out."""
    names = [name for name in names if name not in ("model", "data", MACHINE_SETTING)]
    known = {item.key for item in settings(TrainConfig)}
    typed: dict[str, Any] = {}
    for key, value in flat(config).items():
        of_training = key in known or key.startswith("model.args.")  # others belong to the command only, as ckpt
        if value is not None and of_training and any(f"{key}.".startswith(f"{name}.") for name in names):
            typed["eval.batch_size" if key == "batch_size" else key] = value
    return nested(typed)
