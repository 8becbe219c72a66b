"""dat-bench: settings -> measurements -> table, JSON, chart."""

import platform
from pathlib import Path

import timm
import torch
from rich.console import Console

import dat_train.models  # noqa: F401  registers the models
from dat_train.benchmark import tables as report
from dat_train.benchmark.attention import baseline_name, benchmark_attention
from dat_train.benchmark.models import Candidate, benchmark_models
from dat_train.benchmark.result import compared
from dat_train.benchmark.workloads import DEFAULT_SIZES, Segmentation, workload
from dat_train.commands import bench_data
from dat_train.commands.build_model import require_model
from dat_train.errors import UserError
from dat_train.runtime.precision import Precision, resolve_precision
from dat_train.runtime.processes import resolve_device
from dat_train.settings import CommandLine, Settings


def run(config: Settings, command_line: CommandLine) -> None:
    """Measure, write the files, and print the tables."""
    if config.what[0] == "data":
        return bench_data.run(config)
    if config.threads:
        torch.set_num_threads(config.threads)
    device = resolve_device(config.device)
    if device.type == "cuda":
        torch.cuda.set_device(device)  # device of events and kernels
    precision = resolve_precision(config.dtype, device)
    console = Console()
    attention = config.what[0] == "attention"
    rows = attention_rows(config, precision) if attention else model_rows(config, precision)
    metadata = machine(precision)
    title = f"{metadata['device']}, {precision.name}, batch {config.batch_size}"
    if config.json:
        report.write_json(Path(config.json), metadata | {"settings": config.plain()}, rows)
    if config.chart:
        report.write_chart(Path(config.chart), title, rows, config.baseline)
    console.print(title)
    for table in report.tables(rows):
        console.print(table)


def model_rows(config: Settings, precision: Precision) -> list[dict]:
    """Rows of the chosen model, the others and the baseline in all modes, eager or compiled (config.compile).

    Raises:
        UserError: a head of another task, or UPerNet trained with one image at a time.
    """
    names = dict.fromkeys([config.baseline, config.model.timm_name, *config.others])
    own = dict(config.model.args)
    if config.model.img_size not in (None, native_size(config)):  # convolutional models have no such argument
        own["img_size"] = config.model.img_size
    task = workload(config.what[0], config.dense.head, config.dense.channels)
    if (
        isinstance(task, Segmentation)
        and task.head == "upernet"
        and config.batch_size == 1
        and "training" in config.modes
    ):
        raise UserError(
            "batch_size=1 is not possible with dense.head=upernet in training: batch normalization of its 1 x 1 map "
            "needs two images; set batch_size=2, modes=[inference] or dense.head=semantic_fpn"
        )
    height, width = image_size(config)
    results = []
    for compiled in config.compile:
        candidates = {
            name: Candidate(
                name,
                size=(height, width),
                batch_size=config.batch_size,
                device=precision.device,
                weights=precision.weights_dtype,
                autocast=precision.autocast,
                compiled=compiled,
                kernels=config.kernels,
                task=task,
                drop_path_rate=config.model.drop_path_rate,
                **own if name == config.model.timm_name else {},
            )
            for name in names
            if name
        }
        settings = {"repeats": config.repeats, "warmup": config.warmup, "compiled": compiled}
        results += benchmark_models(candidates, config.modes, **settings)
    return compared(results, config.baseline)


def image_size(config: Settings) -> tuple[int, int]:
    """(height, width) of the images.

    Raises:
        UserError: compiled detectors, whose steps depend on the image.
    """
    if config.what[0] == "detection" and True in config.compile:
        raise UserError("compile=[true] is not possible for detection: a detector's steps depend on the image")
    if config.img_size is None and config.what[0] in DEFAULT_SIZES:
        height, width = DEFAULT_SIZES[config.what[0]]
        return height, config.width or width
    height = config.img_size or config.model.img_size or native_size(config)
    return height, config.width or height


def native_size(config: Settings) -> int:
    """Input size of the model in timm, pixels."""
    require_model(config.model.timm_name)
    return timm.get_pretrained_cfg(config.model.timm_name).input_size[-1]


def attention_rows(config: Settings, precision: Precision) -> list[dict]:
    """Rows of all kernels of the device at every size, compared with plain attention."""
    rows = []
    for size in config.sizes:
        results = benchmark_attention(
            size,
            batch_size=config.batch_size,
            device=precision.device,
            dtype=precision.autocast or precision.weights_dtype,
            repeats=config.repeats,
            warmup=config.warmup,
        )
        rows += compared(results, baseline_name(size))
    return rows


def machine(precision: Precision) -> dict:
    """Device and versions."""
    name = f"{platform.machine()} CPU, {torch.get_num_threads()} threads"
    if precision.device.type == "cuda":
        name = torch.cuda.get_device_name(precision.device)
    return {"device": name, "dtype": precision.name, "torch": torch.__version__, "timm": timm.__version__}
