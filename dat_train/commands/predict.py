"""dat-predict: checkpoint and paths -> model -> rows of classes, or pictures and a file of areas or objects."""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import torch
from PIL.Image import Image
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from dat_train.atomic import write_json
from dat_train.commands.build_data import workers
from dat_train.commands.load_trained import TrainedClassifier, TrainedDense, load_trained_model
from dat_train.commands.output_folder import folder_names, output_errors, output_folder
from dat_train.commands.prediction_writers import Guess, writer_for
from dat_train.commands.saved_settings import open_checkpoint
from dat_train.commands.scene_prediction import PredictedAreas, PredictedObjects, predict_scene
from dat_train.data.batch import prepare_images
from dat_train.data.dataset import UNREADABLE, ImageDataset
from dat_train.data.images import UnreadableImage, printable, read_rgb
from dat_train.data.loader import evaluation_loader
from dat_train.data.reading.listing import list_images
from dat_train.errors import UserError
from dat_train.models.kernels import accelerate
from dat_train.runtime.batch_feed import feed_once
from dat_train.runtime.processes import Processes
from dat_train.settings import CommandLine, Settings

SOME_UNREADABLE = 1  # the exit code
Choice = Callable[[Tensor], list[list[tuple[int, float]]]]


def run(config: Settings, command_line: CommandLine) -> None:
    """Predict and write the results; exit with SOME_UNREADABLE if an image could not be read.

    Raises:
        UserError: other errors the user can fix.
    """
    paths = list_images(config.images, lambda: sys.stdin.buffer.read(), lambda text: print(text, file=sys.stderr))
    if not paths:
        raise UserError("the list on standard input names no image")
    checkpoint, settings = open_checkpoint(config, command_line, images=False)
    trained = load_trained_model(settings, checkpoint, config.ema, config.device)
    if not config.ckpt:
        print(trained.weights, file=sys.stderr)
    accelerate(trained.model, trained.precision.device, config.kernels)
    if isinstance(trained, TrainedClassifier):
        unreadable = predict_classes(config, trained, paths)
    else:
        folder = output_folder(config.output, checkpoint.path, "predictions")
        unreadable = predict_scenes(trained, paths, folder, config.score)
    if unreadable:
        print(f"{unreadable:,} of {len(paths):,} images could not be read", file=sys.stderr)
        sys.exit(SOME_UNREADABLE)


# Classification


def predict_classes(config: Settings, trained: TrainedClassifier, paths: Sequence[str]) -> int:
    """Write a row for each readable image; return the number of unreadable ones."""
    multi_label, number = trained.multi_label, min(config.top, len(trained.classes))
    choose = partial(above, threshold=config.threshold) if multi_label else partial(best, number=number)
    writer = writer_for(config.format, paths, number, multi_label=multi_label)
    alone = Processes(0, 1, 0, trained.precision.device)
    readers = workers(trained.settings, alone) if len(paths) > config.batch_size else 0
    unreadable = 0
    with _bar(config.output) as bar, _output(config.output) as write:
        task = bar.add_task("predicting", total=len(paths))
        write(writer.header)
        for path, guesses in predictions(trained, paths, choose, config.batch_size, readers):
            if guesses is not None:
                write(writer.row(path, guesses))
            else:
                unreadable += 1
                reason = _reason(trained, path)
                bar.console.print(f"warning: {reason}", soft_wrap=True, markup=False, highlight=False)
            bar.advance(task)
    return unreadable


def predictions(
    trained: TrainedClassifier, paths: Sequence[str], choose: Choice, batch_size: int, readers: int
) -> Iterator[tuple[str, list[Guess] | None]]:
    """Yield path and guesses of each image, in the order of `paths`; None if the image cannot be read.

    Args:
        choose: logits of a batch -> (class number, probability) pairs of each image.
        readers: number of processes that read images.
    """
    images = ImageDataset([(path, 0) for path in paths], trained.classes, trained.transform, training=False)
    device = trained.precision.device
    loader = evaluation_loader(images, batch_size=batch_size, workers=readers, pin_memory=device.type == "cuda")
    for batch in feed_once(loader, print_warning, timeout_minutes=trained.settings.timeout_minutes):
        with torch.inference_mode(), trained.precision.context():
            logits = trained.model(prepare_images(batch, device, trained.precision.weights_dtype))
        rows = zip(batch.indices.tolist(), batch.labels.tolist(), choose(logits.float()), strict=True)
        for index, label, chosen in rows:
            guesses = [Guess(trained.classes[number], number, p) for number, p in chosen]
            yield paths[index], None if label == UNREADABLE else guesses


def best(logits: Tensor, *, number: int) -> list[list[tuple[int, float]]]:
    """The `number` most probable classes of softmax."""
    found = logits.softmax(-1).topk(number)
    return _pairs(found.indices, found.values)


def above(logits: Tensor, *, threshold: float) -> list[list[tuple[int, float]]]:
    """All classes whose probability, a sigmoid of each logit, reaches a threshold; most probable first."""
    probabilities, numbers = logits.sigmoid().sort(descending=True, stable=True)
    return [[pair for pair in row if pair[1] >= threshold] for row in _pairs(numbers, probabilities)]


def _pairs(numbers: Tensor, probabilities: Tensor) -> list[list[tuple[int, float]]]:
    rows = zip(numbers.tolist(), probabilities.tolist(), strict=True)
    return [list(zip(*row, strict=True)) for row in rows]


def _reason(trained: TrainedClassifier, path: str) -> str:
    """Reason for an image that could not be read or transformed, in one line."""
    try:
        trained.transform(path)
    except UnreadableImage as error:
        return " ".join(str(error).split())
    except Exception as error:  # of this image only
        return " ".join(f"{printable(path)}: {type(error).__name__}: {error}".split())
    return f"{path}: could be read only the second time"


def _bar(output: str | None) -> Progress:
    """Progress bar on standard error, if that is a terminal."""
    rows_below = output is None and sys.stdout.isatty()  # standard output is on the same terminal
    return Progress(
        console=Console(stderr=True), disable=not sys.stderr.isatty(), transient=True, redirect_stdout=rows_below
    )


@contextlib.contextmanager
def _output(path: str | None) -> Iterator[Callable[[str], object]]:
    """Return a function that writes text to the file, or to standard output.

    Raises:
        UserError: the file cannot be written.
    """
    if path is None:
        try:
            yield lambda text: sys.stdout.write(text)
            sys.stdout.flush()
        except BrokenPipeError:  # the reader has closed the pipe, for example "| head"
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return
    try:
        with Path(path).open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
            yield file.write
    except OSError as error:
        raise UserError(f"output={path} cannot be written: {error.strerror}") from error


# Segmentation and detection


def predict_scenes(trained: TrainedDense, paths: Sequence[str], output: Path, min_score: float) -> int:
    """Write pictures of each image and one file for all into `output`; return the number of unreadable images.

    Args:
        min_score: minimum score of the objects that are drawn and counted; detections.json has all.

    Raises:
        UserError: the folder cannot be written, or an image does not arrive within timeout_minutes.
    """
    records, unreadable = [], 0
    with output_errors(output):
        output.mkdir(parents=True, exist_ok=True)
        timeout = trained.settings.timeout_minutes
        images = feed_once(_Images(paths), print_warning, unit="image", timeout_minutes=timeout)
        for path, name, image in zip(paths, folder_names(paths), images, strict=True):
            if isinstance(image, UnreadableImage):
                unreadable += 1
                print_warning(" ".join(str(image).split()))
                continue
            prediction = predict_scene(trained, image, min_score)
            prediction.write(output / name)
            records.append({"path": printable(path)} | prediction.record())
            print(f"{printable(path)}: {prediction.text}")
        kind = PredictedAreas if trained.settings.task == "segmentation" else PredictedObjects
        write_json(output / kind.file, kind.content(records, trained.classes))
    print(f"in {output}: {kind.file} and pictures")
    return unreadable


class _Images:
    """Images of files, in order; an unreadable image is replaced by its error."""

    def __init__(self, paths: Sequence[str]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __iter__(self) -> Iterator[Image | UnreadableImage]:
        for path in self.paths:
            try:
                yield read_rgb(path)
            except UnreadableImage as error:
                yield error


def print_warning(text: str) -> None:
    print(f"warning: {text}", file=sys.stderr)
