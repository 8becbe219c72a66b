"""dat-check: data -> every image read once -> report."""

import statistics
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

from dat_train.atomic import write_json
from dat_train.choices import CLASSIFICATION_KINDS, TEST_SETS
from dat_train.commands.output_folder import output_errors
from dat_train.data.checking import CheckedImage, Part, check_images, imagenet_problems
from dat_train.data.dataset import ImageDataset
from dat_train.data.generated.digits import write_digits
from dat_train.data.images import printable
from dat_train.data.reading.image_files import first_named
from dat_train.data.scenes.scene_checking import open_scene_parts
from dat_train.data.storages.sources import open_evaluation_set, open_storage
from dat_train.data.storages.split_names import find_split
from dat_train.errors import UserError
from dat_train.runtime.environment import usable_cores
from dat_train.settings import CommandLine, Settings

PROBLEMS = 1  # the exit code
SCENE_SETTINGS = ("classes", "val_fraction", "split_seed")  # of segmentation
MAX_NAMED = 20  # unreadable files and duplicates printed; the report has all


def run(config: Settings, command_line: CommandLine) -> None:
    """Check the data and write the report; exits with PROBLEMS if there is any.

    Raises:
        UserError: data that cannot be opened, or a report that cannot be written.
    """
    data = config.data
    parts = open_parts(data, config.task)
    workers = usable_cores() if config.workers is None else config.workers
    report: dict[str, Any] = {"data": data.name, "root": data.root, "splits": {}, "problems": []}
    found: dict[str, list[CheckedImage]] = {}
    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal, transient=True) as progress:
        for name, images in parts.items():
            task = progress.add_task(f"reading {name}", total=len(images))
            found[name] = []
            for result in check_images(images, workers):
                found[name].append(result)
                progress.advance(task)
    for name, images in parts.items():
        report["splits"][name] = part_report(images, found[name])
        split = next((split for split in ("train", "val") if find_split([name], split)), None)
        if data.kind == "imagenet" and split:
            report["problems"] += imagenet_problems(split, report["splits"][name]["classes"])
        report["problems"] += part_problems(name, report["splits"][name])
    report["duplicates"] = duplicates(parts, found)
    if report["duplicates"]:
        report["problems"].append(f"images with the same content in two splits: {len(report['duplicates']):,}")
    with output_errors(config.output, "FILE.json"):
        write_json(Path(config.output), report)
    print_report(report, config.output)
    if report["problems"]:
        sys.exit(PROBLEMS)


def open_parts(data: Settings, task: str) -> dict[str, Part]:
    """Open every split of the data, by name; data without splits is "all".

    Args:
        task: classification or multilabel, which has any number of labels for each image of a table.

    Raises:
        UserError: data that cannot be opened.
    """
    if data.kind == "fake":
        raise UserError("data=fake has no files to check")
    if data.root is None:
        raise UserError(f"data.root is not set: data={data.name} needs data.root=PATH")
    if data.kind not in CLASSIFICATION_KINDS:
        given = {key: value for key, value in data.only(*SCENE_SETTINGS).items() if value is not None}
        return open_scene_parts(data.kind, data.root, **given)
    if data.kind in TEST_SETS:
        return {data.kind: open_evaluation_set(data.kind, data.root)}
    if data.kind == "digits":
        write_digits(data.root, val_fraction=data.val_fraction, split_seed=data.split_seed or 0)
    kind = "folder" if data.kind in ("digits", "imagenet") else data.kind  # any number of classes is reported on
    columns = data.only("image_column", "label_column")
    storage = open_storage(kind, data.root, multi_label=task == "multilabel", **columns)
    names = storage.splits()
    opened = {name: storage.open(name) for name in names} or {"all": storage.open(None)}
    return {name: catalog.dataset(training=False) for name, catalog in opened.items()}


def part_report(images: Part, results: list[CheckedImage]) -> dict[str, Any]:
    """Description of one split as plain values."""
    sizes = sorted((result.size for result in results if result.reason is None), key=lambda size: size[0] * size[1])
    return {
        "images": len(images),
        **class_report(images, results),
        "notes": list(images.notes),
        "smallest": sizes[0] if sizes else None,
        "largest": sizes[-1] if sizes else None,
        "median": [statistics.median(size[axis] for size in sizes) for axis in (0, 1)] if sizes else None,
        "unreadable": [
            {"path": printable(images.samples[result.index][0]), "reason": " ".join(result.reason.split())}
            for result in results
            if result.reason is not None
        ],
    }


def class_report(images: Part, results: list[CheckedImage]) -> dict[str, dict[str, int]]:
    """Images of each class; of segmentation and detection also pixels or objects."""
    if isinstance(images, ImageDataset):
        return {"classes": dict(zip(images.classes, images.class_counts().tolist(), strict=True))}
    found = [result.amounts for result in results if result.amounts is not None]
    return {
        "classes": {name: sum(label in amounts for amounts in found) for label, name in enumerate(images.classes)},
        images.unit: {name: sum(amounts[label] for amounts in found) for label, name in enumerate(images.classes)},
    }


def part_problems(name: str, part: dict[str, Any]) -> list[str]:
    """Problems of one split, one line each: images that cannot be used, and classes that do not occur in training."""
    problems, scenes = [], "pixels" in part or "objects" in part
    if part["unreadable"]:
        verb = "used" if scenes else "read"
        problems.append(f"{name}: {len(part['unreadable']):,} of {part['images']:,} images cannot be {verb}")
    missing = [of_class for of_class, count in part["classes"].items() if not count]
    if scenes and missing and name == "train":
        number = f"{len(missing):,} of {len(part['classes']):,}"
        problems.append(f"{name}: {number} classes do not occur ({first_named(missing)})")
    return problems


def duplicates(parts: dict[str, Part], found: dict[str, list[CheckedImage]]) -> list[list[str]]:
    """Pairs of paths in different splits with the same file content."""
    first: dict[bytes, tuple[str, str]] = {}
    pairs = []
    for name, images in parts.items():
        for result in found[name]:
            if result.reason is None:
                path = printable(images.samples[result.index][0])
                other = first.setdefault(result.digest, (name, path))
                if other[0] != name:
                    pairs.append([other[1], path])
    return pairs


def print_report(report: dict[str, Any], output: str) -> None:
    """Print the report: unreadable files and duplicates, then one line for each split."""
    for part in report["splits"].values():
        say_first(f"{item['path']}: {item['reason']}" for item in part["unreadable"])
    say_first(f"the same image: {one} and {other}" for one, other in report["duplicates"])
    for name, part in report["splits"].items():
        counts = part["classes"].values()
        sizes = f"; {_range(_size(part['smallest']), _size(part['largest']))} pixels" if part["smallest"] else ""
        per_class = _range(f"{min(counts):,}", f"{max(counts):,}")
        of = "in" if "pixels" in part or "objects" in part else "of"
        print(f"{name}: {part['images']:,} images; {len(counts):,} classes {of} {per_class} images{sizes}")
        for note in part["notes"]:
            print(f"  {note}")
    print("\n".join(f"problem: {text}" for text in report["problems"]) or "no problems found")
    print(f"report with all file names: {output}")


def say_first(lines: Iterable[str]) -> None:
    """Print the first MAX_NAMED lines, and the number of the others."""
    lines = list(lines)
    print("".join(f"{line}\n" for line in lines[:MAX_NAMED]), end="")
    if len(lines) > MAX_NAMED:
        print(f"... and {len(lines) - MAX_NAMED:,} more")


def _range(first: str, last: str) -> str:
    return first if first == last else f"{first} to {last}"


def _size(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"
