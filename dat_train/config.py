"""The settings: their names, types and meaning. Their values, with the reason for each, are in conf/*.yaml.

Only `commands/` sees this; it hands plain arguments down.
"""

import dataclasses
import math
import typing
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from dat_train.errors import UserError

MISSING = "???"  # what OmegaConf calls a value that must be given
REQUIRED = "required"  # what a recipe says of `init` when it fine-tunes


def setting(meaning: str, *, harmless: bool = False, default: Any = MISSING) -> Any:
    """A setting's field: what it means, and whether it may change when a run is continued."""
    metadata = {"help": meaning, "harmless": harmless}
    if isinstance(default, (dict, list)):
        return field(default_factory=lambda: type(default)(default), metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass
class ModelConfig:
    name: str = setting("configuration name, as in model=NAME")
    timm_name: str = setting("name of the timm model")
    img_size: int = setting("resolution the model is made for, pixels")
    drop_path_rate: float = setting("stochastic depth of the last block; grows linearly from 0")
    args: dict[str, Any] = setting("further arguments of the model, e.g. model.args.depths=[2,2,2,2]", default={})
    grad_checkpointing: bool = setting(
        "recompute activations in the backward pass: less memory, more time", harmless=True, default=False
    )


@dataclass
class DataConfig:
    name: str = setting("configuration name, as in data=NAME")
    kind: str = setting("digits, folder, imagenet or fake")
    root: str | None = setting("folder the images are in", harmless=True, default=None)
    workers: int | None = setting(
        "data processes of each training process; null: its share of cores, at most 8", harmless=True, default=None
    )
    val_fraction: float = setting("share held out where there is no val/ folder", default=0.1)
    split_seed: int = setting("seed of that split", default=0)
    max_unreadable: float = setting("stop when a larger share of images cannot be read", harmless=True, default=0.01)
    mean: list[float] = setting("channel means images are normalised with")
    std: list[float] = setting("channel standard deviations images are normalised with")
    fake_images: int = setting("data=fake: number of training images", default=10_000)
    fake_classes: int = setting("data=fake: number of classes", default=1000)


@dataclass
class AugmentConfig:
    name: str = setting("configuration name, as in augment=NAME")
    scale: list[float] | None = setting("random resized crop: range of area; null: resize to img_size without cropping")
    ratio: list[float] = setting("random resized crop: range of aspect ratio")
    interpolation: str = setting("bicubic, bilinear or nearest")
    hflip: float = setting("probability of a horizontal flip")
    vflip: float = setting("probability of a vertical flip")
    rand_augment: str | None = setting("timm's RandAugment policy; null: none")
    color_jitter: float = setting("brightness, contrast and saturation jitter where RandAugment is off")
    random_erasing: float = setting("probability of erasing a rectangle (per-pixel noise)")
    mixup: float = setting("alpha of mixup; 0: off")
    cutmix: float = setting("alpha of cutmix; 0: off")
    switch_prob: float = setting("probability of cutmix where both are on")
    label_smoothing: float = setting("mass spread over all classes")
    repeats: int = setting("augmented copies of a sample in a row (repeated augmentation); 1: off")


@dataclass
class OptimConfig:
    lr: float = setting("peak learning rate, taken as it is given; the default follows batch_size linearly")
    weight_decay: float = setting("AdamW's, for weights of two or more dimensions except bias tables")
    betas: list[float] = setting("AdamW's")
    eps: float = setting("AdamW's")
    clip_grad: float = setting("largest gradient norm; 0: no clipping")


@dataclass
class ScheduleConfig:
    warmup_epochs: float = setting("epochs of linear warm-up, counted inside `epochs`")
    warmup_lr: float = setting("learning rate warm-up starts from")
    min_lr: float = setting("learning rate the cosine ends at")


@dataclass
class EmaConfig:
    decay: float = setting("decay of the averaged weights, e.g. 0.9999; 0: no averaging")


@dataclass
class ValidationConfig:
    every_epochs: int = setting("epochs between validations")
    batch_size: int = setting("validation images per device at a time", harmless=True)
    resize: str = setting("short_side (timm, torchvision) or squash (the authors: whatever the aspect ratio)")
    crop_pct: float = setting("side of the centre crop over the resized side; 1: no crop")
    interpolation: str = setting("bicubic, bilinear or nearest")


@dataclass
class CheckpointConfig:
    every_minutes: float = setting("minutes between checkpoints inside an epoch", harmless=True)
    keep: int = setting("older checkpoints kept besides last.pt and best.pt", harmless=True)


@dataclass
class LogConfig:
    every: int = setting("steps between progress lines and writes of metrics.jsonl", harmless=True)
    tensorboard: bool = setting("write TensorBoard files into the run's folder", harmless=True)
    wandb: bool = setting("log to Weights & Biases", harmless=True)
    wandb_project: str = setting("its project", harmless=True)
    wandb_mode: str | None = setting("online or offline; null: online where a login is known", harmless=True)


@dataclass
class TrainConfig:
    name: str | None = setting("the run's folder under runs_dir; null: MODEL-DATA", harmless=True)
    runs_dir: str = setting("folder of all runs", harmless=True)
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    img_size: int = setting("training resolution, pixels")
    epochs: int = setting("length of the schedule; may grow when a run is continued", harmless=True)
    max_steps: int | None = setting("stop after so many steps; the schedule stays that of `epochs`", harmless=True)
    batch_size: int = setting("images of one update, over all devices and micro-batches")
    micro_batch_size: int = setting(
        "images one device computes at a time; the rest is gradient accumulation", harmless=True
    )
    optim: OptimConfig = field(default_factory=OptimConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    ema: EmaConfig = field(default_factory=EmaConfig)
    seed: int = setting("everything random follows from it")
    resume: str = setting("auto: continue the run's folder; never: start afresh; or a checkpoint's path", harmless=True)
    init: str | None = setting("weights to start from")
    device: str = setting("auto, cpu, cuda or mps", harmless=True)
    dtype: str = setting("auto (bf16 on CUDA, else fp32), bf16, fp16, fp32 or fp64")
    compile: bool = setting("torch.compile the model", harmless=True)
    deterministic: bool = setting("bit-exact on a GPU too, slower")
    eval: ValidationConfig = field(default_factory=ValidationConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    log: LogConfig = field(default_factory=LogConfig)
    nonfinite_limit: int = setting("stop after so many skipped (non-finite) steps in a row", harmless=True)
    timeout_minutes: float = setting("give up waiting for another process after so long", harmless=True)
    show_batch: bool = setting("write a picture of one augmented batch and stop", harmless=True)


@dataclass
class EvalModelConfig(ModelConfig):
    """As in training; null: as the checkpoint says."""

    name: str | None = setting("configuration name, as in model=NAME", default=None)
    timm_name: str | None = setting("name of the timm model", default=None)
    img_size: int | None = setting("resolution the model is made for, pixels", default=None)
    drop_path_rate: float | None = setting("not used in evaluation", default=None)
    grad_checkpointing: bool | None = setting("not used in evaluation", default=None)


@dataclass
class EvalDataConfig:
    """As in training; null: as the checkpoint says."""

    name: str | None = setting("configuration name, as in data=NAME", default=None)
    kind: str | None = setting("digits, folder, imagenet or fake", default=None)
    root: str | None = setting("folder the images are in", default=None)
    workers: int | None = setting("data processes; null: its share of cores, at most 8", default=None)
    val_fraction: float | None = setting("share held out where there is no val/ folder", default=None)
    split_seed: int | None = setting("seed of that split", default=None)
    max_unreadable: float | None = setting("stop when a larger share of images cannot be read", default=None)
    mean: list[float] | None = setting("channel means images are normalised with", default=None)
    std: list[float] | None = setting("channel standard deviations images are normalised with", default=None)
    fake_images: int | None = setting("data=fake: number of training images", default=None)
    fake_classes: int | None = setting("data=fake: number of classes", default=None)


@dataclass
class EvalViewConfig:
    resize: str | None = setting("short_side or squash (the authors' numbers need squash)", default=None)
    crop_pct: float | None = setting("side of the centre crop over the resized side; 1: no crop", default=None)
    interpolation: str | None = setting("bicubic, bilinear or nearest", default=None)


@dataclass
class EvalConfig:
    ckpt: str = setting("checkpoint, safetensors file or released weights to evaluate")
    model: EvalModelConfig = field(default_factory=EvalModelConfig)
    data: EvalDataConfig = field(default_factory=EvalDataConfig)
    img_size: int | None = setting("test resolution, pixels; null: as trained", default=None)
    eval: EvalViewConfig = field(default_factory=EvalViewConfig)
    ema: bool | None = setting(
        "averaged weights (true), plain ones (false); null: averaged where there are any", default=None
    )
    batch_size: int = setting("images per device at a time")
    device: str = setting("auto, cpu, cuda or mps")
    dtype: str = setting("auto (bf16 on CUDA, else fp32), bf16, fp16, fp32 or fp64")
    output: str | None = setting("folder of the reports; null: eval/ in the run's folder, or ./eval", default=None)


SCHEMAS = {"train": TrainConfig, "eval": EvalConfig}


@dataclass(frozen=True)
class Setting:
    """One setting of a schema: its dotted key, type, meaning, harmless to change in a run, default (or MISSING)."""

    key: str
    type: Any
    help: str
    harmless: bool
    default: Any


def settings(schema: type, prefix: str = "") -> Iterator[Setting]:
    """All settings of a schema, depth first, in order."""
    hints = typing.get_type_hints(schema)
    for item in dataclasses.fields(schema):
        key = prefix + item.name
        if dataclasses.is_dataclass(hints[item.name]):
            yield from settings(hints[item.name], f"{key}.")
        else:
            yield Setting(key, hints[item.name], item.metadata["help"], item.metadata["harmless"], item.default)


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


def flat(config: dict, prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted key."""
    items: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, dict) and value:
            items |= flat(value, f"{prefix}{name}.")
        else:
            items[prefix + name] = value
    return items


_CHOICES = {
    "device": ("auto", "cpu", "cuda", "mps"),
    "dtype": ("auto", "bf16", "fp16", "fp32", "fp64"),
    "data.kind": ("digits", "folder", "imagenet", "fake"),
    "eval.resize": ("short_side", "squash"),
    "eval.interpolation": ("bicubic", "bilinear", "nearest"),
    "augment.interpolation": ("bicubic", "bilinear", "nearest"),
    "log.wandb_mode": ("online", "offline"),
}
_POSITIVE = (
    "epochs", "batch_size", "micro_batch_size", "max_steps", "img_size", "model.img_size", "log.every",
    "eval.batch_size", "eval.every_epochs", "eval.crop_pct", "augment.repeats", "optim.eps", "nonfinite_limit",
    "timeout_minutes",
)  # fmt: skip
_NOT_NEGATIVE = (
    "optim.lr", "optim.weight_decay", "optim.clip_grad", "schedule.warmup_epochs", "schedule.warmup_lr",
    "schedule.min_lr", "checkpoint.every_minutes", "checkpoint.keep", "augment.mixup", "augment.cutmix",
    "augment.color_jitter", "seed", "data.workers",
)  # fmt: skip
_SHARES = (  # in [0, 1]
    "augment.hflip", "augment.vflip", "augment.random_erasing", "augment.switch_prob", "augment.label_smoothing",
    "ema.decay", "data.val_fraction", "data.max_unreadable", "model.drop_path_rate", "eval.crop_pct",
)  # fmt: skip


def validate(config: dict) -> None:
    """Check the values of resolved settings.

    Raises:
        UserError: the first setting that cannot be, with what it may be.
    """
    values = flat(config)
    for key, choices in _CHOICES.items():
        if values.get(key) is not None and values[key] not in choices:
            raise UserError(f"{key}={values[key]} is not possible; one of {', '.join(choices)}")
    for keys, fits, text in (
        (_POSITIVE, lambda value: value > 0, "must be greater than 0"),
        (_NOT_NEGATIVE, lambda value: value >= 0, "must not be negative"),
        (_SHARES, lambda value: 0 <= value <= 1, "must lie between 0 and 1"),
    ):
        for key in keys:
            value = values.get(key)
            if value is not None and not (math.isfinite(value) and fits(value)):
                raise UserError(f"{key}={value} {text}")
    if values.get("init") == REQUIRED:
        raise UserError(
            "init is not set: init=PATH, the weights this recipe fine-tunes (init=null starts from nothing)"
        )
    if values.get("data.kind") in ("imagenet", "folder") and not values.get("data.root"):
        raise UserError(f"data.root is not set: data={values['data.name']} needs data.root=FOLDER")
