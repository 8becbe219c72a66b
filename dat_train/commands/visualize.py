"""What dat-visualize does: checkpoint and images -> what the model looked at -> pictures and pages."""

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

import torch

from dat_train.commands.output_folder import beside_run
from dat_train.commands.request import Request
from dat_train.commands.trained import Trained, load_trained
from dat_train.data.images import UnreadableImage, read_rgb
from dat_train.data.listing import list_images
from dat_train.errors import UserError
from dat_train.models import DeformableAttention
from dat_train.runtime.terminal import Terminal
from dat_train.settings import Settings
from dat_train.viewer import pictures
from dat_train.viewer.attention import Look, look
from dat_train.viewer.page import write_look
from dat_train.viewer.tracing import attended_spots


def run(config: Settings, request: Request) -> None:
    """Write what `config` asks for.

    Raises:
        UserError: errors the user can fix; images that cannot be read, after all others are done.
    """
    paths = list_images([config.image])
    trained = load_trained(config, request)
    queries = queries_of(config.query, trained.settings.img_size)
    require_deformable(trained)
    output = Path(config.output) if config.output else beside_run(config.ckpt, "looking")
    terminal = Terminal()
    unreadable = []
    for path, folder in zip(paths[: config.most_images], folders(paths[: config.most_images], output), strict=True):
        try:
            image = trained.transform(read_rgb(path))
        except UnreadableImage as error:
            terminal.warn(str(error))
            unreadable.append(path)
            continue
        seen = look_at(trained, image)
        write(config, trained, seen, queries or attended_spots(seen.heat()), Path(path).name, folder)
        top = ", ".join(f"{trained.classes[label]} {share:.1%}" for label, share in seen.top(3))
        terminal.say(f"{path}: {top}   {folder / 'look.html' if config.page else folder}")
    if len(paths) > config.most_images:
        left_out = len(paths) - config.most_images
        terminal.say(f"{left_out:,} more images are left out; most_images={len(paths)} takes all")
    if unreadable:
        raise UserError(f"{len(unreadable)} of {len(paths)} images cannot be read: {', '.join(unreadable[:3])}")


def queries_of(query: list | None, size: int) -> list[tuple[float, float]]:
    """The query pixels as typed: [x,y] or [[x,y],...]; none: [].

    Raises:
        UserError: something else, or outside the model's input of `size` x `size` pixels.
    """
    if query is None:
        return []
    points = query if any(isinstance(point, list) for point in query) else [query]
    for point in points:
        numbers = isinstance(point, list) and len(point) == 2 and all(type(n) in (int, float) for n in point)
        if not numbers or not all(0 <= n < size for n in point):
            raise UserError(
                f"query={query}: {point} is no pixel [x,y] of the model's input, where both lie between 0 and {size}"
            )
    return [(float(x), float(y)) for x, y in points]


def require_deformable(trained: Trained) -> None:
    """Raise a UserError for a model without deformable attention, which has no points to show."""
    if not any(isinstance(module, DeformableAttention) for module in trained.model.modules()):
        raise UserError(f"{trained.settings.model.name} has no deformable attention (block letter D): nothing to show")


def folders(paths: Sequence[str], output: Path) -> list[Path]:
    """A folder for each image, called as the image; numbered where names come twice."""
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


def look_at(trained: Trained, image: torch.Tensor) -> Look:
    data, precision = trained.settings.data, trained.precision
    return look(trained.model, image.to(precision.device, precision.weights), data.mean, data.std)


def write(
    config: Settings,
    trained: Trained,
    seen: Look,
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
            pictures.write_points(seen, folder)
            pictures.write_attention(seen, queries, folder / "attention.png")
            pictures.write_heat(seen, folder / "heat.png")
            pictures.write_traced(seen, queries, folder / "traced.png")
            pictures.write_predictions(seen, trained.classes, folder / "predictions.png")
        if config.page:
            write_look(seen, trained.classes, name, queries[0], folder / "look.html")
    except OSError as error:
        raise UserError(f"{folder} cannot be written ({error.strerror}); set output=FOLDER") from error


if __name__ == "__main__":
    # The command line is a floor above, so it is imported by name and only here.
    import_module("dat_train.cli.main").main("visualize")
