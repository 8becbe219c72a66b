"""The settings: their names, types, meaning and limits. Their values, with the reason for each, are in conf/*.yaml.

Only `commands/` sees this; it hands plain arguments down.
"""

import dataclasses
import math
import re
import typing
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, NamedTuple

from dat_train.errors import UserError

if TYPE_CHECKING:
    from omegaconf import DictConfig

MISSING = "???"  # what OmegaConf calls a value that must be given
REQUIRED = "required"  # what a recipe says of `init` when it fine-tunes


class Limit(NamedTuple):
    """What a value must fulfil beyond its type, and how to say so after "key=value"."""

    fits: Callable[[Any], bool]
    text: str


POSITIVE = Limit(lambda value: value > 0, "must be greater than 0")
NOT_NEGATIVE = Limit(lambda value: value >= 0, "must not be negative")
SHARE = Limit(lambda value: 0 <= value <= 1, "must lie between 0 and 1")
BELOW_ONE = Limit(lambda value: 0 <= value < 1, "must be at least 0 and less than 1")
CROP = Limit(lambda value: 0 < value <= 1, "must be greater than 0 and at most 1")
PAIR = Limit(lambda value: len(value) == 2 and 0 < value[0] <= value[1], "must be two numbers, as in [0.5,1.0]")
BETAS = Limit(lambda value: len(value) == 2 and all(0 <= beta < 1 for beta in value), "must be two numbers below 1")
CHANNELS = Limit(lambda value: len(value) == 3 and all(v >= 0 for v in value), "must be three numbers: R, G, B")
DEVICE = Limit(lambda value: re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", value), "must be auto, cpu, cuda, cuda:N or mps")
FOLDER = Limit(
    lambda value: PurePath(value).parts and not PurePath(value).is_absolute() and ".." not in PurePath(value).parts,
    "must be a folder's name; where it lies says runs_dir",
)


def one_of(*names: str) -> Limit:
    """One of these words; the setting's help lists them."""
    return Limit(names.__contains__, f"must be one of {', '.join(names)}")


DTYPE = one_of("auto", "bf16", "fp16", "fp32", "fp64")
RESIZE = one_of("short_side", "squash")
INTERPOLATION = one_of("bicubic", "bilinear", "nearest")
KIND = one_of("digits", "folder", "imagenet", "fake")


def setting(meaning: str, limit: Limit | None = None, *, harmless: bool = False, default: Any = MISSING) -> Any:
    """A setting's field: what it means, which values it takes, and whether it may change when a run is continued."""
    metadata = {"help": meaning, "limit": limit, "harmless": harmless}
    if isinstance(default, dict):
        return field(default_factory=lambda: dict(default), metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass
class ModelConfig:
    name: str = setting("configuration name, as in model=NAME")
    timm_name: str = setting("name of the timm model")
    img_size: int = setting("resolution the model is made for, pixels", POSITIVE)
    drop_path_rate: float = setting("stochastic depth of the last block; grows linearly from 0", BELOW_ONE)
    args: dict[str, Any] = setting("further arguments of the model, e.g. model.args.depths=[2,2,2,2]", default={})
    grad_checkpointing: bool = setting(
        "recompute activations in the backward pass: less memory, more time", harmless=True
    )


@dataclass
class DataConfig:
    name: str = setting("configuration name, as in data=NAME")
    kind: str = setting("how the images are found", KIND)
    root: str | None = setting("folder the images are in", harmless=True)
    workers: int | None = setting(
        "data processes of each training process; null: its share of cores, at most 8",
        NOT_NEGATIVE,
        harmless=True,
    )
    val_fraction: float = setting("share held out where there is no val/ folder", SHARE)
    split_seed: int = setting("seed of that split", NOT_NEGATIVE)
    max_unreadable: float = setting("stop when a larger share of images cannot be read", SHARE, harmless=True)
    mean: list[float] = setting("channel means images are normalised with", CHANNELS)
    std: list[float] = setting("channel standard deviations images are normalised with", CHANNELS)
    fake_images: int = setting("data=fake: number of training images", POSITIVE)
    fake_classes: int = setting("data=fake: number of classes", POSITIVE)


@dataclass
class AugmentConfig:
    name: str = setting("configuration name, as in augment=NAME")
    scale: list[float] | None = setting(
        "random resized crop: range of area; null: resize to img_size without cropping", PAIR
    )
    ratio: list[float] = setting("random resized crop: range of aspect ratio", PAIR)
    interpolation: str = setting("how crops are resized", INTERPOLATION)
    hflip: float = setting("probability of a horizontal flip", SHARE)
    vflip: float = setting("probability of a vertical flip", SHARE)
    rand_augment: str | None = setting("timm's RandAugment policy; null: none")
    color_jitter: float = setting("brightness, contrast and saturation jitter where RandAugment is off", NOT_NEGATIVE)
    random_erasing: float = setting("probability of erasing a rectangle (per-pixel noise)", SHARE)
    mixup: float = setting("alpha of mixup; 0: off", NOT_NEGATIVE)
    cutmix: float = setting("alpha of cutmix; 0: off", NOT_NEGATIVE)
    switch_prob: float = setting("probability of cutmix where both are on", SHARE)
    label_smoothing: float = setting("mass spread over all classes", BELOW_ONE)
    repeats: int = setting("augmented copies of a sample in a row (repeated augmentation); 1: off", POSITIVE)


@dataclass
class OptimConfig:
    lr: float = setting("peak learning rate, taken as it is given; the default follows batch_size", NOT_NEGATIVE)
    weight_decay: float = setting("AdamW's, for weights of two or more dimensions except bias tables", NOT_NEGATIVE)
    betas: list[float] = setting("AdamW's", BETAS)
    eps: float = setting("AdamW's", POSITIVE)
    clip_grad: float = setting("largest gradient norm; 0: no clipping", NOT_NEGATIVE)


@dataclass
class ScheduleConfig:
    warmup_epochs: float = setting("epochs of linear warm-up, counted inside `epochs`", NOT_NEGATIVE)
    warmup_lr: float = setting("learning rate warm-up starts from", NOT_NEGATIVE)
    min_lr: float = setting("learning rate the cosine ends at", NOT_NEGATIVE)


@dataclass
class EmaConfig:
    decay: float = setting("decay of the averaged weights, e.g. 0.9999; 0: no averaging", BELOW_ONE)


@dataclass
class ValidationConfig:
    every_epochs: int = setting("epochs between validations", POSITIVE)
    batch_size: int = setting("validation images per device at a time", POSITIVE, harmless=True)
    resize: str = setting("short_side as timm and torchvision; squash as the authors: whatever the aspect", RESIZE)
    crop_pct: float = setting("side of the centre crop over the resized side; 1: no crop", CROP)
    interpolation: str = setting("how validation images are resized", INTERPOLATION)


@dataclass
class CheckpointConfig:
    every_minutes: float = setting("minutes between checkpoints inside an epoch", NOT_NEGATIVE, harmless=True)
    keep: int = setting("older checkpoints kept besides last.pt and best.pt", NOT_NEGATIVE, harmless=True)


@dataclass
class LogConfig:
    every: int = setting("steps between progress lines and writes of metrics.jsonl", POSITIVE, harmless=True)
    tensorboard: bool = setting("write TensorBoard files into the run's folder", harmless=True)
    wandb: bool = setting("log to Weights & Biases", harmless=True)
    wandb_project: str = setting("its project", harmless=True)
    wandb_mode: str | None = setting(
        "null: online where a login is known, else offline", one_of("online", "offline"), harmless=True
    )


@dataclass
class TrainConfig:
    name: str | None = setting(
        "the run's folder under runs_dir; null: MODEL-DATA; in a sweep, what is swept is added", FOLDER, harmless=True
    )
    runs_dir: str = setting("folder of all runs", harmless=True)
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    img_size: int = setting("training resolution, pixels", POSITIVE)
    epochs: int = setting("length of the schedule; may only grow when a run is continued", POSITIVE, harmless=True)
    max_steps: int | None = setting(
        "stop after so many steps; the schedule stays that of `epochs`", POSITIVE, harmless=True
    )
    batch_size: int = setting("images of one update, over all devices and micro-batches", POSITIVE)
    micro_batch_size: int = setting(
        "images one device computes at a time; the rest is gradient accumulation", POSITIVE, harmless=True
    )
    optim: OptimConfig = field(default_factory=OptimConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    ema: EmaConfig = field(default_factory=EmaConfig)
    seed: int = setting("everything random follows from it", NOT_NEGATIVE)
    resume: str = setting("auto: continue the run's folder; never: start afresh; or a checkpoint's path", harmless=True)
    init: str | None = setting("weights to start from")
    device: str = setting("auto: the GPU if there is one; cpu, cuda or mps", DEVICE, harmless=True)
    dtype: str = setting("auto: bf16 on CUDA, else fp32", DTYPE)
    compile: bool = setting("torch.compile the model", harmless=True)
    deterministic: bool = setting("bit-exact on a GPU too, slower")
    eval: ValidationConfig = field(default_factory=ValidationConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    log: LogConfig = field(default_factory=LogConfig)
    nonfinite_limit: int = setting("stop after so many skipped (non-finite) steps in a row", POSITIVE, harmless=True)
    timeout_minutes: float = setting("give up waiting for another process after so long", POSITIVE, harmless=True)
    show_batch: bool = setting("write a picture of one augmented batch and stop", harmless=True)


def _optional(schema: type, *names: str) -> type:
    """Settings of a schema for evaluation: all null, which is "as the checkpoint says", until the user sets them."""
    hints = typing.get_type_hints(schema)
    items = []
    for item in dataclasses.fields(schema):
        if item.name in (names or hints):
            keep = item.default_factory is not dataclasses.MISSING  # a dict: empty is as good as null
            default = {"default_factory": item.default_factory} if keep else {"default": None}
            kind = hints[item.name] if keep else hints[item.name] | None
            items.append((item.name, kind, field(metadata=item.metadata, **default)))
    return dataclasses.make_dataclass(f"Eval{schema.__name__}", items)


EvalModelConfig = _optional(ModelConfig)
EvalDataConfig = _optional(DataConfig)
EvalViewConfig = _optional(ValidationConfig, "resize", "crop_pct", "interpolation")


@dataclass
class EvalConfig:
    ckpt: str = setting("checkpoint, safetensors file or released weights to evaluate")
    model: EvalModelConfig = field(default_factory=EvalModelConfig)
    data: EvalDataConfig = field(default_factory=EvalDataConfig)
    img_size: int | None = setting("test resolution, pixels", POSITIVE, default=None)
    eval: EvalViewConfig = field(default_factory=EvalViewConfig)
    ema: bool | None = setting("averaged weights (true), plain ones (false); null: averaged if any", default=None)
    batch_size: int = setting("images per device at a time", POSITIVE)
    device: str = setting("auto: the GPU if there is one; cpu, cuda or mps", DEVICE)
    dtype: str = setting("auto: bf16 on CUDA, else fp32", DTYPE)
    output: str | None = setting("folder of the reports; null: eval/ in the run's folder, or ./eval", default=None)


SCHEMAS = {"train": TrainConfig, "eval": EvalConfig}


@dataclass(frozen=True)
class Setting:
    """One setting of a schema: its dotted key, type, meaning, limit, harmless to change in a run, default."""

    key: str
    type: Any
    help: str
    limit: Limit | None
    harmless: bool
    default: Any  # MISSING where conf/ has it


def settings(schema: type, prefix: str = "") -> Iterator[Setting]:
    """All settings of a schema, depth first, in order."""
    hints = typing.get_type_hints(schema)
    for item in dataclasses.fields(schema):
        kind, key = hints[item.name], prefix + item.name
        if dataclasses.is_dataclass(kind):
            yield from settings(kind, f"{key}.")
        else:
            yield Setting(key, kind, default=item.default, **item.metadata)


def validate(config: dict, schema: type = TrainConfig) -> None:
    """Check the values of resolved settings, types being right.

    Raises:
        UserError: the first setting that cannot be, with what it may be.
    """
    values = flat(config)
    for item in settings(schema):
        value = values.get(item.key)
        if value is None:
            continue
        if not all(math.isfinite(v) for v in (value if isinstance(value, list) else [value]) if isinstance(v, float)):
            raise UserError(f"{item.key}={value} must be finite")
        if item.limit and not item.limit.fits(value):
            raise UserError(f"{item.key}={value} {item.limit.text}")
    if values.get("init") == REQUIRED:
        raise UserError(
            "init is not set: init=PATH, the weights this recipe fine-tunes (init=null starts from nothing)"
        )
    if values.get("data.kind") in ("imagenet", "folder") and not values.get("data.root") and schema is TrainConfig:
        raise UserError(f"data.root is not set: data={values['data.name']} needs data.root=FOLDER")


def to_dict(config: "DictConfig") -> dict[str, Any]:
    """Composed settings as plain, resolved containers, for checkpoints and config.yaml."""
    from omegaconf import OmegaConf

    return OmegaConf.to_container(config, resolve=True)


def flat(config: dict, prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted key."""
    items: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, dict):
            items |= flat(value, f"{prefix}{name}.")
        else:
            items[prefix + name] = value
    return items


def differences(old: dict, new: dict) -> list[tuple[str, Any, Any]]:
    """(key, old value, new value) of every setting that differs and matters; harmless ones are left out.

    Of `epochs`, only a smaller number matters: a run may be made longer.
    """
    before, after = flat(old), flat(new)
    harmless = {item.key for item in settings(TrainConfig) if item.harmless}
    changed = []
    for key in sorted(before.keys() | after.keys()):
        was, now = before.get(key), after.get(key)
        shorter = key == "epochs" and was is not None and now is not None and now < was
        if was != now and (key not in harmless or shorter):
            changed.append((key, was, now))
    return changed
