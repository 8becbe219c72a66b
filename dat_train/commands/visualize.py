"""dat-visualize: checkpoint and images -> sampling points, attention and prediction -> pictures and pages."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL.Image import Image

from dat_train.commands.load_trained import TrainedClassifier, TrainedDense, load_trained_model
from dat_train.commands.output_folder import folder_names, output_errors, output_folder
from dat_train.commands.saved_settings import open_checkpoint
from dat_train.commands.scene_prediction import predict_scene
from dat_train.data.batch import denormalize
from dat_train.data.images import UnreadableImage, printable, read_rgb
from dat_train.data.reading.listing import list_images
from dat_train.errors import UserError
from dat_train.models import DeformableAttention
from dat_train.models.recording import record_attention
from dat_train.runtime.display_text import one_line
from dat_train.runtime.terminal import Terminal
from dat_train.settings import CommandLine, Settings
from dat_train.viewer import pictures
from dat_train.viewer.attention import Inspection, inspect_image, recorded_layers
from dat_train.viewer.attention_page import write_attention_page
from dat_train.viewer.pictures import MAX_CLASSES
from dat_train.viewer.scene_pictures import Region, write_scene
from dat_train.viewer.tracing import most_attended_pixels

PAGE = "attention.html"
LISTED = 8  # objects or classes of a scene on the page


class Inspected(NamedTuple):
    """Attention and prediction of one image.

    Attributes:
        inspection: input of the model, without padding, and its layers.
        queries: pixels (x, y) of the input whose attention is drawn; empty: the most attended ones.
        shares: names with probabilities, scores or fractions of the image, for the page.
        text: the prediction in one line.
        write_prediction: writes a picture of the prediction into a folder.
    """

    inspection: Inspection
    queries: list[tuple[float, float]]
    shares: list[tuple[str, float]]
    text: str
    write_prediction: Callable[[Path], object]


def run(config: Settings, command_line: CommandLine) -> None:
    """Visualize a model on images; each image has its own folder.

    Raises:
        UserError: impossible settings, a model without deformable attention, or, at the end, unreadable images.
    """
    paths = list_images([config.image], note=lambda text: print(text, file=sys.stderr))
    checkpoint, settings = open_checkpoint(config, command_line, images=False)
    trained = load_trained_model(settings, checkpoint, config.ema, config.device)
    if not any(isinstance(module, DeformableAttention) for module in trained.model.modules()):
        raise UserError(f"{settings.model.timm_name} has no deformable attention (block letter D) to visualize")
    if not config.ckpt:
        print(trained.weights, file=sys.stderr)
    output = output_folder(config.output, checkpoint.path, "visualize")
    terminal = Terminal()
    unreadable = []
    chosen = paths[: config.most_images]
    for path, name in zip(chosen, folder_names(chosen), strict=True):
        folder = output / name
        try:
            image = read_rgb(path)
            with output_errors(folder):
                prediction = visualize(config, trained, image, Path(path).name, folder)
        except UnreadableImage as error:
            terminal.warn(str(error))
            unreadable.append(path)
            continue
        result = folder / PAGE if config.page else folder
        terminal.say(f"{printable(path)}: {prediction}   {printable(result)}")
    if len(paths) > config.most_images:
        left_out = len(paths) - config.most_images
        terminal.say(f"{left_out:,} more images were left out; most_images={len(paths)} takes all")
    if unreadable:
        raise UserError(
            f"{len(unreadable)} of {len(paths)} images cannot be read: {', '.join(map(printable, unreadable[:3]))}"
        )


def visualize(
    config: Settings, trained: TrainedClassifier | TrainedDense, image: Image, name: str, folder: Path
) -> str:
    """Write pictures and page of one image into a folder; return the prediction in one line.

    Raises:
        UserError: query=... outside the image.
    """
    seen = (inspect_classification if isinstance(trained, TrainedClassifier) else inspect_scene)(config, trained, image)
    inspection, queries = seen.inspection, seen.queries or most_attended_pixels(seen.inspection.heat())
    if config.pictures:
        pictures.write_points(inspection, folder)
        pictures.write_attention(inspection, queries, folder / "attention.png")
        pictures.write_heat(inspection, folder / "heat.png")
        pictures.write_traced(inspection, queries, folder / "traced.png")
        seen.write_prediction(folder)
    if config.page:
        write_attention_page(inspection, seen.shares, name, queries[0], folder / PAGE)
    return seen.text


def inspect_classification(config: Settings, trained: TrainedClassifier, image: Image) -> Inspected:
    """Attention and prediction of a classifier. Queries are pixels of the model's input."""
    data, precision, size = trained.settings.data, trained.precision, trained.settings.img_size
    queries = queries_of(config.query, (size, size))
    batch = trained.transform(image).to(precision.device, precision.weights_dtype)
    inspection = inspect_image(trained.model, batch, data.mean, data.std, multi_label=trained.multi_label)
    shares = [(trained.classes[label], share) for label, share in inspection.top(MAX_CLASSES)]
    text = ", ".join(f"{one_line(name, 24)} {share:.1%}" for name, share in shares[:3])

    def write_prediction(folder: Path) -> None:
        pictures.write_predictions(inspection, trained.classes, folder / "predictions.png")

    return Inspected(inspection, queries, shares, text, write_prediction)


@torch.inference_mode()
def inspect_scene(config: Settings, trained: TrainedDense, image: Image) -> Inspected:
    """Attention and prediction of a segmentation model or a detector at scale 1.

    Queries are pixels of the image; the default is the predicted regions.
    """
    data, view = trained.settings.data, trained.views(image)[0]
    scale = (view.shape[2] / image.width, view.shape[1] / image.height)
    with record_attention(trained.model) as attended:
        prediction = predict_scene(trained, image, config.score, scales=(1.0,), flip=False)
    layers = recorded_layers(trained.model, attended)
    inspection = Inspection(denormalize(view, data.mean, data.std), np.zeros(0), layers)
    regions = [scaled_region(region, scale, inspection.image.shape[:2]) for region in prediction.regions()]
    queries = [(x * scale[0], y * scale[1]) for x, y in queries_of(config.query, (image.width, image.height))]
    queries = queries or [tuple(region.middle()) for region in regions[:3]]

    def write_prediction(folder: Path) -> None:
        write_scene(inspection, np.asarray(prediction.picture()), regions, folder / "scene.png")

    return Inspected(inspection, queries, prediction.shares[:LISTED], prediction.text, write_prediction)


def queries_of(query: list | None, size: tuple[int, int]) -> list[tuple[float, float]]:
    """Check query=[x,y] or query=[[x,y],...] and return the pixels; [] for None.

    Args:
        size: (width, height) of the image.

    Raises:
        UserError: another format, or a pixel outside the image.
    """
    if query is None:
        return []
    points = query if any(isinstance(point, list) for point in query) else [query]
    for point in points:
        numbers = isinstance(point, list) and len(point) == 2 and all(type(n) in (int, float) for n in point)
        if not numbers or not all(0 <= n < side for n, side in zip(point, size, strict=True)):
            limits = f"{size[0]}" if size[0] == size[1] else f"{size[0]} (x) or {size[1]} (y)"
            raise UserError(
                f"query={query}: {point} is not a pixel [x,y] of the picture; both numbers must be between 0 "
                f"and {limits}"
            )
    return [(float(x), float(y)) for x, y in points]


def scaled_region(region: Region, scale: tuple[float, float], size: tuple[int, int]) -> Region:
    """A region in pixels of the input.

    Args:
        scale: input pixels per pixel of the image, (x, y).
        size: (height, width) of the input.
    """
    box = region.box * np.array([*scale, *scale])
    if region.mask is None:
        return region._replace(box=box)
    rows, columns = (
        ((np.arange(n) + 0.5) / factor).astype(int).clip(0, side - 1)
        for n, factor, side in zip(size, scale[::-1], region.mask.shape, strict=True)
    )
    return region._replace(box=box, mask=region.mask[rows][:, columns])
