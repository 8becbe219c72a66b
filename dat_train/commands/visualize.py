"""dat-visualize: checkpoint and images -> sampling points and attention -> pictures and pages."""

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

import torch

from dat_train.commands.output_folder import run_subfolder
from dat_train.commands.request import Request
from dat_train.commands.trained import Trained, load_trained
from dat_train.data.images import UnreadableImage, printable, read_rgb
from dat_train.data.listing import list_images
from dat_train.errors import UserError
from dat_train.models import DeformableAttention
from dat_train.runtime.display_text import one_line
from dat_train.runtime.terminal import Terminal
from dat_train.settings import Settings
from dat_train.viewer import pictures
from dat_train.viewer.attention import Inspection, inspect_image
from dat_train.viewer.attention_page import write_attention_page
from dat_train.viewer.tracing import most_attended_pixels

PAGE = "attention.html"


def run(config: Settings, request: Request) -> None:
    """Visualize a model on images; each image has its own folder.

    Raises:
        UserError: impossible settings, a model without deformable attention, or, at the end, unreadable images.
    """
    paths = list_images([config.image])
    trained = load_trained(config, request)
    queries = queries_of(config.query, trained.settings.img_size)
    require_deformable(trained)
    output = Path(config.output) if config.output else run_subfolder(trained.weights.path, "visualize")
    terminal = Terminal()
    unreadable = []
    for path, folder in zip(paths[: config.most_images], folders(paths[: config.most_images], output), strict=True):
        try:
            image = trained.transform(read_rgb(path))
        except UnreadableImage as error:
            terminal.warn(str(error))
            unreadable.append(path)
            continue
        inspection = inspect(trained, image)
        write(
            config,
            trained,
            inspection=inspection,
            queries=queries or most_attended_pixels(inspection.heat()),
            name=Path(path).name,
            folder=folder,
        )
        top = ", ".join(f"{one_line(trained.classes[label], 24)} {share:.1%}" for label, share in inspection.top(3))
        result = folder / PAGE if config.page else folder
        terminal.say(f"{printable(path)}: {top}   {printable(result)}")
    if len(paths) > config.most_images:
        left_out = len(paths) - config.most_images
        terminal.say(f"{left_out:,} more images were left out; most_images={len(paths)} takes all")
    if unreadable:
        raise UserError(
            f"{len(unreadable)} of {len(paths)} images cannot be read: {', '.join(map(printable, unreadable[:3]))}"
        )


def queries_of(query: list | None, size: int) -> list[tuple[float, float]]:
    """Check query=[x,y] or query=[[x,y],...] and return the pixels; [] for None.

    Raises:
        UserError: another format, or a pixel outside the model's input of `size` x `size` pixels.
    """
    if query is None:
        return []
    points = query if any(isinstance(point, list) for point in query) else [query]
    for point in points:
        numbers = isinstance(point, list) and len(point) == 2 and all(type(n) in (int, float) for n in point)
        if not numbers or not all(0 <= n < size for n in point):
            raise UserError(
                f"query={query}: {point} is not a pixel [x,y] of the model's input; both numbers must lie between 0 "
                f"and {size}"
            )
    return [(float(x), float(y)) for x, y in points]


def require_deformable(trained: Trained) -> None:
    """Raise a UserError for a model without deformable attention."""
    if not any(isinstance(module, DeformableAttention) for module in trained.model.modules()):
        raise UserError(f"{trained.settings.model.timm_name} has no deformable attention (block letter D) to visualize")


def folders(paths: Sequence[str], output: Path) -> list[Path]:
    """One folder for each image, named after the image; equal names are numbered."""
    taken: set[str] = set()
    made = []
    for path in paths:
        name, number = Path(path).stem, 1
        while name in taken:
            number += 1
            name = f"{Path(path).stem}-{number}"
        taken.add(name)
        made.append(output / name)
    return made


def inspect(trained: Trained, image: torch.Tensor) -> Inspection:
    data, precision = trained.settings.data, trained.precision
    return inspect_image(trained.model, image.to(precision.device, precision.weights), data.mean, data.std)


def write(
    config: Settings,
    trained: Trained,
    inspection: Inspection,
    queries: Sequence[tuple[float, float]],
    name: str,
    folder: Path,
) -> None:
    """Write the files of one image.

    Raises:
        UserError: the folder cannot be written.
    """
    try:
        if config.pictures:
            pictures.write_points(inspection, folder)
            pictures.write_attention(inspection, queries, folder / "attention.png")
            pictures.write_heat(inspection, folder / "heat.png")
            pictures.write_traced(inspection, queries, folder / "traced.png")
            pictures.write_predictions(inspection, trained.classes, folder / "predictions.png")
        if config.page:
            write_attention_page(inspection, trained.classes, name, queries[0], folder / PAGE)
    except OSError as error:
        raise UserError(f"{folder} cannot be written ({error.strerror}); set output=FOLDER") from error


if __name__ == "__main__":
    # The command line is a floor above, so it is imported by name and only here.
    import_module("dat_train.cli.main").main("visualize")
