"""Configuration in a checkpoint or exported model, converted to the settings of a training run."""

from collections.abc import Set
from typing import Any

import timm
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from dat_train.choices import CLASSIFIERS
from dat_train.commands.build_model import with_model_defaults
from dat_train.errors import UserError
from dat_train.models.weights.checkpoint import TIMM_SCHEME, Checkpoint
from dat_train.models.weights.published_dense import published_experiment
from dat_train.models.weights.published_names import is_published
from dat_train.models.weights.published_weights import PUBLISHED, SCHEME
from dat_train.settings import ADDED, CommandLine, Settings, flat, upgraded

WARMUP = "schedule.warmup_epochs"
KEPT = (("data", "split_by"),)  # settings whose default differs from the behavior before they existed
# arguments in timm's config.json that follow from other settings or from the shapes of the weights
NOT_ARGUMENTS = ("num_classes", "img_size", "in_chans", "global_pool", "drop_path_rate")


def open_checkpoint(config: Settings, command_line: CommandLine, *, images: bool) -> tuple[Checkpoint, Settings]:
    """Open config.ckpt, or if it is not set, the weights of config.model published by its authors or in timm.

    Args:
        images: images of the data set will be read.

    Returns:
        The checkpoint, and the settings of a training run for it.

    Raises:
        UserError: neither a checkpoint nor a model is set; a file that cannot be read or downloaded.
    """
    source, name = config.ckpt, config.model.timm_name
    if not source and not name:
        raise UserError("ckpt is not set: ckpt=PATH, e.g. runs/digits, or model=NAME for its published weights")
    if not source:
        known = timm.get_pretrained_cfg(name)
        in_timm = known is not None and name not in PUBLISHED and known.has_weights
        source = f"{TIMM_SCHEME if in_timm else SCHEME}{name}"
    checkpoint = Checkpoint.open(source)
    settings = command_line.settings_for(trained_with(checkpoint), str(checkpoint.path), images)
    return checkpoint, with_model_defaults(settings)


def trained_with(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return the configuration in a checkpoint of dat-train or an exported folder.

    For released classifiers, the normalization and evaluation view of their authors; for released models of
    segmentation and detection {"experiment": NAME}; {} for any other file.
    """
    if checkpoint.timm_config:
        return settings_of_timm(checkpoint.timm_config)
    if not checkpoint.config and (experiment := published_experiment(checkpoint.states.plain or {})):
        return {"experiment": experiment}
    if not checkpoint.config and is_published(checkpoint.states.plain or {}):
        normalization = {"mean": list(IMAGENET_DEFAULT_MEAN), "std": list(IMAGENET_DEFAULT_STD)}
        return {"data": normalization, "eval": {"resize": "squash"}}
    return upgraded(checkpoint.config)


def keep_former_settings(config: Settings, before: dict[str, Any], computed: Set[str] = frozenset()) -> None:
    """Keep the warm-up of a continued run, and its behavior from before a setting was introduced.

    Args:
        config: settings of this start. Changed in place are those in KEPT, if the run has the former behavior, and
            the warm-up, unless it was set: conf/ computes it from `epochs`, which may grow.
        before: configuration in the run's checkpoint, as from `upgraded`.
        computed: `CommandLine.computed`.
    """
    for group, name in KEPT:
        if before[group][name] == ADDED[f"{group}.{name}"]:
            config[group][name] = before[group][name]
    if WARMUP in computed and WARMUP in (items := flat(before)):
        config.schedule["warmup_epochs"] = items[WARMUP]


def settings_of_timm(config: dict[str, Any]) -> dict[str, Any]:
    """Settings of the model, its task and its preprocessing from a config.json of an export for timm.

    Raises:
        UserError: a model whose input is not a square of 1 or 3 channels, or another kind of crop.
    """
    name, view, arguments = config["architecture"], config["pretrained_cfg"], config.get("model_args", {})
    channels, *size = view["input_size"]
    resize = {"center": "short_side", "squash": "squash"}.get(view.get("crop_mode", "center"))
    if channels not in (1, 3) or channels != len(view["mean"]) or size[0] != size[1] or resize is None:
        raise UserError(
            f"config.json has input_size={view['input_size']}, crop_mode={view.get('crop_mode')}; supported are "
            "squares of 1 or 3 channels, cropped in the center"
        )
    task = config["task"] if config.get("task") in CLASSIFIERS else "classification"
    native = arguments.get("img_size", size[0])
    return {
        "task": task,
        "model": {
            "name": name,
            "timm_name": name,
            "img_size": native if isinstance(native, int) else native[0],
            "drop_path_rate": 0.0,
            "args": {key: value for key, value in arguments.items() if key not in NOT_ARGUMENTS},
        },
        "data": {"mean": list(view["mean"]), "std": list(view["std"])},
        "img_size": size[0],
        "eval": {"resize": resize, "crop_pct": view["crop_pct"], "interpolation": view["interpolation"]},
    }
