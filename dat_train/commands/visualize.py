"""dat-visualize: checkpoint and images -> sampling points and attention -> pictures and pages."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL.Image import Image

from dat_train.choices import CLASSIFIERS
from dat_train.commands.checkpoint_settings import open_checkpoint
from dat_train.commands.inspect_scene import inspect_scene
from dat_train.commands.output_folder import folder_names, output_errors, output_folder
from dat_train.commands.trained import Trained, assemble
from dat_train.commands.trained_dense import TrainedDense, assemble_dense
from dat_train.data.images import UnreadableImage, printable, read_rgb
from dat_train.data.reading.listing import list_images
from dat_train.errors import UserError
from dat_train.models import DeformableAttention
from dat_train.runtime.display_text import one_line
from dat_train.runtime.terminal import Terminal
from dat_train.settings import CommandLine, Settings
from dat_train.viewer import pictures
from dat_train.viewer.attention import Inspection, inspect_image
from dat_train.viewer.attention_page import write_attention_page
from dat_train.viewer.pictures import MAX_CLASSES
from dat_train.viewer.scene_pictures import write_scene
from dat_train.viewer.tracing import most_attended_pixels

PAGE = "attention.html"
# writes the pictures of an image, by the image and its name, into a folder, and returns the prediction as text
View = Callable[[Image, str, Path], str]


def run(config: Settings, command_line: CommandLine) -> None:
    """Visualize a model on images; each image has its own folder.

    Raises:
        UserError: impossible settings, a model without deformable attention, or, at the end, unreadable images.
    """
    paths = list_images([config.image], note=lambda text: print(text, file=sys.stderr))
    checkpoint, settings = open_checkpoint(config, command_line, images=False)
    if settings.get("task", "classification") in CLASSIFIERS:
        trained = assemble(settings, checkpoint, config.ema, config.device)
        view = classification_view(config, trained)
    else:
        trained = assemble_dense(settings, checkpoint, config.ema, config.device)
        view = dense_view(config, trained)
    require_deformable(trained)
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
                prediction = view(image, Path(path).name, folder)
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


def require_deformable(trained: Trained | TrainedDense) -> None:
    """Raise a UserError for a model without deformable attention."""
    if not any(isinstance(module, DeformableAttention) for module in trained.model.modules()):
        raise UserError(f"{trained.settings.model.timm_name} has no deformable attention (block letter D) to visualize")


def classification_view(config: Settings, trained: Trained) -> View:
    """View of a classifier: points, attention, heat, traced points, predictions, and the page.

    Raises:
        UserError: query=... outside the model's input.
    """
    size = trained.settings.img_size
    queries = queries_of(config.query, (size, size))

    def view(image: Image, name: str, folder: Path) -> str:
        data, precision = trained.settings.data, trained.precision
        batch = trained.transform(image).to(precision.device, precision.weights)
        inspection = inspect_image(trained.model, batch, data.mean, data.std, multi_label=trained.multi_label)
        chosen = queries or most_attended_pixels(inspection.heat())
        if config.pictures:
            write_attention_pictures(inspection, chosen, folder)
            pictures.write_predictions(inspection, trained.classes, folder / "predictions.png")
        if config.page:
            top = [(trained.classes[label], share) for label, share in inspection.top(MAX_CLASSES)]
            write_attention_page(inspection, top, name, chosen[0], folder / PAGE)
        return ", ".join(f"{one_line(trained.classes[label], 24)} {share:.1%}" for label, share in inspection.top(3))

    return view


def dense_view(config: Settings, trained: TrainedDense) -> View:
    """View of a segmentation model or a detector: also the prediction, and points traced from its regions.

    Queries are pixels of the image; pictures show the input of the model, without padding.
    """

    def view(image: Image, name: str, folder: Path) -> str:
        scene = inspect_scene(trained, image, config.score)
        prediction = scene.prediction
        queries = [
            (x * scene.scale[0], y * scene.scale[1]) for x, y in queries_of(config.query, (image.width, image.height))
        ]
        queries = queries or [tuple(region.middle()) for region in prediction.regions[:3]]
        queries = queries or most_attended_pixels(scene.inspection.heat())
        if config.pictures:
            write_attention_pictures(scene.inspection, queries, folder)
            write_scene(scene.inspection, np.asarray(prediction.picture), prediction.regions, folder / "scene.png")
        if config.page:
            write_attention_page(scene.inspection, prediction.shares, name, queries[0], folder / PAGE)
        return prediction.text

    return view


def write_attention_pictures(inspection: Inspection, queries: Sequence[tuple[float, float]], folder: Path) -> None:
    """Write the pictures that every task has."""
    pictures.write_points(inspection, folder)
    pictures.write_attention(inspection, queries, folder / "attention.png")
    pictures.write_heat(inspection, folder / "heat.png")
    pictures.write_traced(inspection, queries, folder / "traced.png")


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
                f"query={query}: {point} is not a pixel [x,y] of the picture; both numbers must lie between 0 "
                f"and {limits}"
            )
    return [(float(x), float(y)) for x, y in points]
