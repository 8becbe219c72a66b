"""Settings of dat-eval, dat-predict, dat-export, dat-average and dat-visualize, the commands with a trained model."""

import dataclasses
import typing
from dataclasses import dataclass, field
from typing import Any

from dat_train.cli.settings.dense import DenseConfig
from dat_train.cli.settings.limits import AVERAGE, DTYPE, POSITIVE, SHARE, SIZES, one_of
from dat_train.cli.settings.setting import device_setting, kernels_setting, score_setting, setting
from dat_train.cli.settings.train import DataConfig, ModelConfig, ValidationConfig


def _optional(schema: type, *names: str) -> type:
    """Settings of a schema that may be null, which means "as in the checkpoint"; all of them, or `names`."""
    hints = typing.get_type_hints(schema)
    items = []
    for item in dataclasses.fields(schema):
        if item.name in (names or hints):
            keep = item.default_factory is not dataclasses.MISSING  # a dict: empty means the same as null
            default = {"default_factory": item.default_factory} if keep else {"default": None}
            kind = hints[item.name] if keep else hints[item.name] | None
            items.append((item.name, kind, field(metadata=item.metadata, **default)))
    return dataclasses.make_dataclass(f"Optional{schema.__name__}", items)


OptionalModelConfig = _optional(ModelConfig)
OptionalDataConfig = _optional(DataConfig)
# for commands that get image files instead of a data set
ImagesConfig = _optional(DataConfig, "workers", "mean", "std", "background")
ViewConfig = _optional(ValidationConfig, "resize", "crop_pct", "interpolation")
SceneViewConfig = _optional(DenseConfig, "limits", "scales", "flip")


@dataclass
class TrainedModelConfig:
    """A trained model and the preprocessing of its images."""

    ckpt: str | None = setting(
        "checkpoint, folder of a run, exported folder or released weights; null: the published weights of model=NAME",
        path=True,
        default=None,
    )
    model: OptionalModelConfig = field(default_factory=OptionalModelConfig)
    data: ImagesConfig = field(default_factory=ImagesConfig)
    img_size: int | None = setting("resolution, pixels; null: as in training", POSITIVE, default=None)
    eval: ViewConfig = field(default_factory=ViewConfig)
    dense: SceneViewConfig = field(default_factory=SceneViewConfig)
    ema: bool | None = setting("averaged weights (true), plain ones (false); null: averaged if any", default=None)


@dataclass
class RunningModelConfig(TrainedModelConfig):
    """A trained model on a device."""

    device: str = device_setting()
    dtype: str | None = setting("auto: bf16 on CUDA, else fp32; null: as in training", DTYPE, default=None)


@dataclass
class EvaluatingConfig(RunningModelConfig):
    """A trained model that is evaluated on a data set."""

    data: OptionalDataConfig = field(default_factory=OptionalDataConfig)
    batch_size: int | None = setting("images per device at a time; null: as in training", POSITIVE, default=None)
    timeout_minutes: float | None = setting(
        "longest wait for images or another process, minutes; null: as in training", POSITIVE, default=None
    )


@dataclass
class EvalConfig(EvaluatingConfig):
    img_sizes: list[int] | None = setting(
        "several resolutions, one after the other, and a table of them", SIZES, default=None
    )
    score: float = score_setting()
    kernels: str = kernels_setting()
    output: str | None = setting(
        "folder of the reports; null: eval/ in the run's folder, or ./eval", default=None, path=True
    )


@dataclass
class PredictConfig(RunningModelConfig):
    images: list[str] = setting("files, folders, quoted patterns, or - for a list on standard input", path=True)
    top: int = setting("number of classes for each image", POSITIVE)
    threshold: float = setting("task=multilabel: probability from which a class is named, instead of top", SHARE)
    score: float = score_setting()
    format: str = setting("output format", one_of("table", "csv", "jsonl"))
    kernels: str = kernels_setting()
    output: str | None = setting("file to write; null: standard output", default=None, path=True)
    batch_size: int = setting("images at a time", POSITIVE)
    timeout_minutes: float | None = setting(
        "longest wait for images, minutes; null: as in training", POSITIVE, default=None
    )


@dataclass
class ExportConfig(TrainedModelConfig):
    format: str = setting("file format", one_of("safetensors", "onnx", "torch_export"))
    output: str | None = setting(
        "folder to write; null: export/FORMAT in the run's folder, or ./export", default=None, path=True
    )
    int8: bool = setting("format=onnx: a second file with weights in 8 bits")
    validate: bool | None = setting(
        "measure accuracy on the validation set, before and after; null: with int8=true", default=None
    )
    data: OptionalDataConfig = field(default_factory=OptionalDataConfig)
    batch_size: int | None = setting("validation images at a time; null: as in training", POSITIVE, default=None)


@dataclass
class AverageConfig(EvaluatingConfig):
    ckpt: list[str] = setting(
        "checkpoints to average: two or more, of one architecture and the same classes", path=True
    )
    kind: str = setting(
        "uniform: all; greedy: the best, and each other that does not lower validation accuracy", AVERAGE
    )
    output: str = setting("checkpoint to write", path=True)


@dataclass
class VisualizeConfig(RunningModelConfig):
    image: str = setting("image file, folder of images, or quoted pattern", path=True)
    query: list[Any] | None = setting(
        "pixel [x,y] whose attention is drawn, or [[x,y],...]: of the model's input; of the image for segmentation and "
        "detection; null: the most attended pixels",
        default=None,
    )
    score: float = score_setting()
    pictures: bool = setting("write the pictures (PNG)")
    page: bool = setting("write attention.html, an interactive page that needs no network")
    most_images: int = setting("of a folder; the others are left out", POSITIVE)
    output: str | None = setting(
        "folder for the results, with a folder for each image; null: visualize/ in the run's folder, or ./visualize",
        default=None,
        path=True,
    )
