"""Settings of dat-bench."""

from dataclasses import dataclass, field

from dat_train.cli.settings.limits import DENSE_HEAD, DTYPE, NOT_NEGATIVE, POSITIVE, Limit
from dat_train.cli.settings.setting import device_setting, kernels_setting, setting
from dat_train.cli.settings.train import AugmentConfig, MixingConfig, ModelConfig
from dat_train.cli.settings.trained_model import OptionalDataConfig, ViewConfig

KINDS = ("models", "segmentation", "detection", "attention", "data")
WHAT = Limit(lambda value: len(value) == 1 and value[0] in KINDS, f"must be one of {', '.join(KINDS)}")
MODES = Limit(
    lambda value: value and set(value) <= {"inference", "training"} and len(set(value)) == len(value),
    "must be a list of inference, training",
)
ONCE = Limit(lambda value: value and len(set(value)) == len(value), "must be a list of false, true, each once at most")
WORKERS = Limit(
    lambda value: value and all(number >= 0 for number in value), "must be a list of numbers of processes, as in [1,2]"
)
SIZES = Limit(lambda value: value and all(size > 0 for size in value), "must be a list of sides of maps, as in [7,14]")


@dataclass
class BenchDenseConfig:
    """Head of segmentation and detection."""

    head: str | None = setting(
        "segmentation, detection: decoder or detector; null: upernet, mask_rcnn", DENSE_HEAD, default=None
    )
    channels: int | None = setting("width of decoder or detector; null: as published", POSITIVE, default=None)


@dataclass
class BenchConfig:
    what: list[str] = setting(
        "models: classifiers; segmentation, detection: models of these tasks; attention: the attention module alone; "
        "data: the input pipeline",
        WHAT,
    )
    dense: BenchDenseConfig = field(default_factory=BenchDenseConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    data: OptionalDataConfig = field(default_factory=OptionalDataConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    mixing: MixingConfig = field(default_factory=MixingConfig)
    eval: ViewConfig = field(default_factory=ViewConfig)
    others: list[str] = setting("further timm models, ours or not, as in others=[resnet50,dat_small]")
    baseline: str | None = setting("timm model the others are compared with; null: no comparison")
    modes: list[str] = setting("inference; training: forward, backward and optimizer step", MODES)
    compile: list[bool] = setting("eager (false), by torch.compile (true), or both: compile=[false,true]", ONCE)
    kernels: str = kernels_setting()
    sizes: list[int] = setting("attention: sides of the maps", SIZES)
    workers: list[int] = setting("data: numbers of worker processes, one after the other", WORKERS)
    images: int = setting("data: images of a round, evenly spaced in the training set; read again if fewer", POSITIVE)
    batch_size: int = setting("images of a call", POSITIVE)
    img_size: int | None = setting(
        "side of the images, pixels; null: the model's, 512 x 512 in segmentation, 800 x 1088 in detection", POSITIVE
    )
    width: int | None = setting("width of the images, if they are not square; img_size is their height", POSITIVE)
    dtype: str = setting("auto: bf16 on CUDA, else fp32; bf16 and fp16 by autocast", DTYPE)
    device: str = device_setting()
    threads: int | None = setting("CPU threads; null: PyTorch's choice", POSITIVE)
    repeats: int = setting("reported calls of each", POSITIVE)
    warmup: int = setting("calls of each before them", NOT_NEGATIVE)
    json: str | None = setting("file for everything that was measured, as JSON", default=None, path=True)
    chart: str | None = setting("file for a bar chart, PNG", default=None, path=True)
