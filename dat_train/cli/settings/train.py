"""Settings of dat-train: names, types, meaning and limits. Their values are in conf/*.yaml."""

from dataclasses import dataclass, field
from typing import Any

from dat_train.cli.settings.dense import DenseConfig
from dat_train.cli.settings.limits import (
    ABOVE_ZERO,
    BELOW_ONE,
    BETAS,
    CHANNELS,
    CLASS_WEIGHTS,
    COLOR,
    DISTILLATION,
    DTYPE,
    EPOCHS,
    FOLDER,
    INTERPOLATION,
    KIND,
    LOSS,
    NOT_NEGATIVE,
    PAIR,
    POSITIVE,
    RESIZE,
    SAMPLING,
    SCHEDULE,
    SHARE,
    SHUFFLE,
    SPLIT_BY,
    TASK,
    one_of,
)
from dat_train.cli.settings.setting import device_setting, kernels_setting, setting, settings


@dataclass
class ModelConfig:
    name: str = setting("configuration name, as in model=NAME")
    timm_name: str = setting("name of the timm model")
    img_size: int | None = setting("native resolution of the model, pixels; null: as in timm", POSITIVE)
    drop_path_rate: float = setting("stochastic depth of the last block; grows linearly from 0", BELOW_ONE)
    args: dict[str, Any] = setting("further arguments of the model, e.g. model.args.depths=[2,2,2,2]", default={})
    grad_checkpointing: bool = setting(
        "recompute activations in the backward pass: less memory, more time", may_change=True
    )


@dataclass
class DataConfig:
    name: str = setting("configuration name, as in data=NAME")
    kind: str = setting("storage and layout of the images", KIND)
    root: str | None = setting(
        "folder, archive or table of the images; for hf also a name on the Hub", may_change=True, path=True
    )
    image_column: str | None = setting("hf, csv: column of the images; null: found by type or name", may_change=True)
    label_column: str | None = setting("hf, csv, shards: column or key of the label; null: found", may_change=True)
    workers: int | None = setting(
        "data processes of each training process; null: its share of cores, at most 8",
        NOT_NEGATIVE,
        may_change=True,
    )
    split: str | None = setting(
        "split to evaluate, by name in any case; all: no part held out; null: val, else test", may_change=True
    )
    val_fraction: float = setting("share held out where there is no val/ folder", SHARE)
    split_seed: int = setting("seed of the split by val_fraction", NOT_NEGATIVE)
    split_by: str = setting("name: each image by its name, for growing data; order: as before version 0.2", SPLIT_BY)
    sampling: str = setting("uniform, or balanced: every class equally often in an epoch", SAMPLING)
    shuffle: str = setting("full, or blocks: neighboring images in long reads, for slow disks", SHUFFLE)
    max_unreadable: float = setting("stop when a larger share of images cannot be read", SHARE, may_change=True)
    repeats: int = setting("consecutive augmented copies of a sample (repeated augmentation); 1: off", POSITIVE)
    mean: list[float] | None = setting("channel means for the normalization", CHANNELS)
    std: list[float] | None = setting("channel standard deviations for the normalization", CHANNELS)
    background: list[int] = setting("color behind transparent pixels: R, G, B from 0 to 255", COLOR)
    classes: str | None = setting(
        "data=masks: file of class names; null: classes.txt in data.root", path=True, default=None
    )
    fake_images: int = setting("data=fake: number of training images", POSITIVE)
    fake_classes: int = setting("data=fake: number of classes", POSITIVE)


@dataclass
class AugmentConfig:
    name: str = setting("configuration name, as in augment=NAME")
    scale: list[float] | None = setting(
        "random resized crop: range of area; null: resize to img_size without cropping", PAIR
    )
    ratio: list[float] = setting("random resized crop: range of aspect ratio", PAIR)
    interpolation: str = setting("resizing of crops", INTERPOLATION)
    hflip: float = setting("probability of a horizontal flip", SHARE)
    vflip: float = setting("probability of a vertical flip", SHARE)
    rand_augment: str | None = setting("timm's RandAugment policy; 3a: three-augment; null: none")
    color_jitter: float = setting(
        "brightness, contrast and saturation jitter where RandAugment is off, and with three-augment", NOT_NEGATIVE
    )
    random_erasing: float = setting("probability of erasing a rectangle (per-pixel noise)", SHARE)


@dataclass
class MixingConfig:
    mixup: float = setting("alpha of mixup; 0: off", NOT_NEGATIVE)
    cutmix: float = setting("alpha of cutmix; 0: off", NOT_NEGATIVE)
    switch_prob: float = setting("probability of cutmix where both are on", SHARE)
    label_smoothing: float = setting("target probability spread over all classes", BELOW_ONE)
    off_epoch: int | None = setting("epoch from which mixup and cutmix are off; null: never", NOT_NEGATIVE)


@dataclass
class LossConfig:
    name: str = setting("cross_entropy, or bce: binary cross-entropy of each class", LOSS)
    target_threshold: float | None = setting("bce: targets above it become 1, others 0; null: as mixed", SHARE)
    sum_classes: bool = setting("bce: sum over the classes instead of their mean")
    class_weights: str | None = setting(
        "balanced: a class weighs the inverse of its number of training images; null: equal weights", CLASS_WEIGHTS
    )


@dataclass
class OptimConfig:
    name: str = setting("optimizer by its name in timm: adamw, sgd, lamb, lion, muon, ...")
    lr: float = setting("peak learning rate; the default is proportional to batch_size", NOT_NEGATIVE)
    weight_decay: float = setting("for weights of two or more dimensions except bias tables", NOT_NEGATIVE)
    betas: list[float] = setting("of adam and adamw; others: optim.args.betas", BETAS)
    eps: float = setting("of adam and adamw; others: optim.args.eps", POSITIVE)
    args: dict[str, Any] = setting("further arguments of the optimizer, e.g. optim.args.momentum=0.95", default={})
    layer_decay: float = setting(
        "ratio of a layer's learning rate to that of the next layer; 1: equal rates", ABOVE_ZERO
    )
    head_lr_factor: float = setting("ratio of the classifier's learning rate to that of the other layers", POSITIVE)


@dataclass
class DistillConfig:
    teacher: str | None = setting(
        "timm model that teaches, also local-dir:FOLDER or hf-hub:NAME; null: none", path=True
    )
    weights: str | None = setting(
        "weights of the teacher; null: timm's own. A checkpoint of dat-train needs no teacher=", path=True
    )
    kind: str = setting("soft: the teacher's probabilities; hard: its decision", DISTILLATION)
    alpha: float = setting("the teacher's share of the loss", SHARE)
    tau: float = setting("temperature of both softmaxes, kind soft", POSITIVE)


@dataclass
class ScheduleConfig:
    name: str = setting("learning-rate schedule", SCHEDULE)
    warmup_epochs: float = setting(
        "epochs of linear warm-up, counted inside `epochs`; unless set, a continued run keeps its own", NOT_NEGATIVE
    )
    warmup_steps: int | None = setting("steps of warm-up, instead of epochs", NOT_NEGATIVE)
    warmup_lr: float = setting("learning rate at the start of the warm-up", NOT_NEGATIVE)
    warmup_factor: float | None = setting(
        "factor at step 0 that rises to 1 and multiplies the falling rate, instead of warmup_lr", SHARE
    )
    min_lr: float = setting("cosine, linear, poly: learning rate at the end", NOT_NEGATIVE)
    power: float = setting("poly: exponent", POSITIVE)
    step_epochs: float = setting("step: epochs between multiplications by gamma", POSITIVE)
    milestones: list[int] = setting("multistep: epochs after which the rate is multiplied by gamma", EPOCHS)
    gamma: float = setting("step, multistep: factor of the learning rate", SHARE)


@dataclass
class EmaConfig:
    decay: float = setting("decay of the averaged weights, e.g. 0.9999; 0: no averaging", BELOW_ONE)
    warmup: bool = setting("smaller decay in the first steps, (1 + step) / (10 + step); false: as in timm")


@dataclass
class ValidationConfig:
    every_epochs: int = setting("epochs between validations", POSITIVE)
    every_steps: int | None = setting("steps between validations, instead of epochs", POSITIVE, default=None)
    batch_size: int = setting("validation images per device at a time", POSITIVE, may_change=True)
    resize: str = setting(
        "short_side: keeps the aspect ratio (timm, torchvision); squash: to a square (the DAT authors)", RESIZE
    )
    crop_pct: float | None = setting("side of the center crop over the resized side; 1: no crop", ABOVE_ZERO)
    interpolation: str | None = setting("resizing of validation images", INTERPOLATION)


@dataclass
class CheckpointConfig:
    every_minutes: float = setting("minutes between checkpoints inside an epoch", NOT_NEGATIVE, may_change=True)
    keep: int = setting(
        "number of older checkpoints kept in addition to last.pt and best.pt", NOT_NEGATIVE, may_change=True
    )


@dataclass
class LogConfig:
    every: int = setting("steps between progress lines and writes of metrics.jsonl", POSITIVE, may_change=True)
    tensorboard: bool = setting("write TensorBoard files into the run's folder", may_change=True)
    wandb: bool = setting("log to Weights & Biases", may_change=True)
    wandb_project: str = setting("project in Weights & Biases", may_change=True)
    wandb_mode: str | None = setting(
        "null: online where a login is known, else offline", one_of("online", "offline"), may_change=True
    )
    mlflow: bool = setting("log to MLflow", may_change=True)
    mlflow_uri: str | None = setting(
        "MLflow server or database; null: MLFLOW_TRACKING_URI, else runs_dir/mlflow.db", may_change=True
    )
    mlflow_experiment: str = setting("experiment in MLflow", may_change=True)


@dataclass
class InspectConfig:
    every: int = setting(
        "steps between measurements of the offsets (length, share at the limit, share outside); 0: never",
        NOT_NEGATIVE,
        may_change=True,
    )


@dataclass
class TrainConfig:
    name: str | None = setting(
        "folder of the run in runs_dir; null: MODEL-DATA; a sweep adds its values", FOLDER, may_change=True
    )
    runs_dir: str = setting("folder of all runs", may_change=True, path=True)
    task: str = setting("task of the training", TASK)
    dense: DenseConfig = field(default_factory=DenseConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    mixing: MixingConfig = field(default_factory=MixingConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    img_size: int | None = setting("training resolution, pixels; null: as in timm", POSITIVE)
    epochs: int = setting("length of the schedule; may only grow when a run is continued", POSITIVE, may_change=True)
    steps: int | None = setting("length of the schedule in steps, instead of epochs", POSITIVE, default=None)
    max_steps: int | None = setting(
        "number of steps after which the run stops; the schedule stays that of `epochs`", POSITIVE, may_change=True
    )
    batch_size: int = setting("images of one update, over all devices and micro-batches", POSITIVE)
    micro_batch_size: int = setting(
        "images one device computes at a time; the rest is gradient accumulation", POSITIVE, may_change=True
    )
    optim: OptimConfig = field(default_factory=OptimConfig)
    clip_grad: float = setting("largest gradient norm; 0: no clipping", NOT_NEGATIVE)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    ema: EmaConfig = field(default_factory=EmaConfig)
    seed: int = setting("random seed", NOT_NEGATIVE)
    resume: str = setting(
        "auto: continue the run's folder; never: start a new run; or a checkpoint's path", may_change=True, path=True
    )
    resume_changed: bool = setting(
        "continue a run although settings or data have changed; the changes are written into the log", may_change=True
    )
    init: str | None = setting(
        "weights to start from: a file, a run's folder, local-dir:FOLDER, hf-hub:OWNER/NAME, published or timm",
        path=True,
    )
    freeze: list[str] = setting("parts of the model that are not trained, as in [stem,stages.0]")
    distill: DistillConfig = field(default_factory=DistillConfig)
    device: str = device_setting(may_change=True)
    dtype: str = setting("auto: bf16 on CUDA, else fp32", DTYPE)
    compile: bool = setting("torch.compile the model", may_change=True)
    kernels: str = kernels_setting(may_change=True)
    deterministic: bool = setting("bit-exact on a GPU too, slower")
    eval: ValidationConfig = field(default_factory=ValidationConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    log: LogConfig = field(default_factory=LogConfig)
    inspect: InspectConfig = field(default_factory=InspectConfig)
    nonfinite_limit: int = setting(
        "stop after this number of consecutive skipped (non-finite) steps", POSITIVE, may_change=True
    )
    timeout_minutes: float = setting("longest wait for images or another process, minutes", POSITIVE, may_change=True)
    show_batch: bool = setting("write a picture of one augmented batch and stop", may_change=True)


MAY_CHANGE = frozenset(item.key for item in settings(TrainConfig) if item.may_change)  # when a run is continued
