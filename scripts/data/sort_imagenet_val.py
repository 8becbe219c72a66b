#!/usr/bin/env python3
"""Sort ImageNet's 50,000 validation images, which are published flat, into one folder a class.

    python scripts/data/sort_imagenet_val.py VAL_FOLDER LABELS [--dry-run]

VAL_FOLDER has ILSVRC2012_val_00000001.JPEG to ILSVRC2012_val_00050000.JPEG. LABELS says their classes and is one of

    a list of synsets     50,000 lines, one for each image in order:  n01751748
    Kaggle's table        LOC_val_solution.csv:  ILSVRC2012_val_00048981,n03995372 85 1 499 272

ILSVRC2012_validation_ground_truth.txt has numbers of classes instead of synsets; meta.mat beside it says which they
are, and is no text. Take Kaggle's table, or replace the numbers by the synsets of meta.mat first.

Images are moved one by one within the folder; a sorting that was interrupted goes on when it is started again.
Needs nothing but Python.
"""

import argparse
import csv
import re
import sys
from collections.abc import Sequence
from pathlib import Path

IMAGES = 50_000
NAME = "ILSVRC2012_val_{:08d}"
SYNSET = re.compile(r"n\d{8}")
IMAGE = re.compile(r"(ILSVRC2012_val_\d{8})\.jpe?g", re.IGNORECASE)


class Mistake(Exception):  # noqa: N818  says what it is
    """What the user can mend, in one line."""


def read_labels(path: Path, images: int) -> dict[str, str]:
    """Synset of each image name, without its extension.

    Raises:
        Mistake: the file is none of the two kinds, or has other than `images` images.
    """
    try:
        lines = path.read_text(encoding="ascii").split("\n")
    except OSError as error:
        raise Mistake(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise Mistake(f"{path} is no text; wanted is a list of synsets or LOC_val_solution.csv") from error
    lines = [line.strip() for line in lines]
    while lines and not lines[-1]:
        lines.pop()
    if lines and lines[0].replace(" ", "").lower() == "imageid,predictionstring":
        labels = dict(_row_of_table(path, row) for row in csv.reader(lines[1:]))
    else:
        labels = {NAME.format(i): _synset(path, i, line) for i, line in enumerate(lines, start=1)}
    if len(labels) != images:
        raise Mistake(f"{path} has labels of {len(labels):,} images, not of {images:,}")
    return labels


def _row_of_table(path: Path, row: Sequence[str]) -> tuple[str, str]:
    """Image name and synset of a row of Kaggle's table; its second field has boxes, each with the synset before it."""
    words = row[1].split() if len(row) > 1 else []
    if not words or not SYNSET.fullmatch(words[0]):
        raise Mistake(f"{path} has the row {','.join(row)!r}; wanted are rows like {NAME.format(1)},n01751748 1 2 3 4")
    return row[0].strip(), words[0]


def _synset(path: Path, number: int, line: str) -> str:
    if SYNSET.fullmatch(line):
        return line
    if line.isdigit():
        raise Mistake(
            f"{path} has numbers of classes, whose meaning meta.mat says; take LOC_val_solution.csv, or a list of "
            "synsets like n01751748"
        )
    raise Mistake(f"{path}, line {number}: {line[:60]!r} is no synset like n01751748")


def plan(folder: Path, labels: dict[str, str]) -> tuple[list[tuple[Path, Path]], int]:
    """The moves (from, to) that are left, and how many images are where they belong already.

    Raises:
        Mistake: an image without a label, one that is missing, or one whose place is taken.
    """
    if not folder.is_dir():
        raise Mistake(f"{folder} is {'not a folder' if folder.exists() else 'not there'}")
    flat = {match[1]: path for path in sorted(folder.iterdir()) if (match := IMAGE.fullmatch(path.name))}
    unknown = sorted(set(flat) - set(labels))
    if unknown:
        raise Mistake(f"{len(unknown):,} images have no label, {flat[unknown[0]]} is one")
    of_class = {synset: _images(folder / synset) for synset in sorted(set(labels.values()))}
    missing = [name for name, synset in labels.items() if name not in flat and name not in of_class[synset]]
    if missing:
        raise Mistake(
            f"{len(missing):,} of {len(labels):,} images are not in {folder}, {missing[0]}.JPEG is one; unpack "
            "ILSVRC2012_img_val.tar there"
        )
    moves = [(path, folder / labels[name] / path.name) for name, path in flat.items()]
    taken = [target for source, target in moves if source.stem in of_class[target.parent.name]]
    if taken:
        raise Mistake(f"{taken[0]} is there already, and {taken[0].name} in {folder} too; remove one of them")
    return moves, len(labels) - len(moves)


def _images(folder: Path) -> set[str]:
    """Names, without extension, of the images in `folder`."""
    if not folder.is_dir():
        return set()
    return {match[1] for path in folder.iterdir() if (match := IMAGE.fullmatch(path.name))}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="VAL_FOLDER")
    parser.add_argument("labels", type=Path, metavar="LABELS")
    parser.add_argument("--dry-run", action="store_true", help="say what would be moved, and move nothing")
    parser.add_argument("--images", type=int, default=IMAGES, help="images there should be (%(default)s)")
    options = parser.parse_args(arguments)
    try:
        moves, done = plan(options.folder, read_labels(options.labels, options.images))
        classes = len({target.parent for _, target in moves})
        if options.dry_run:
            for source, target in moves[:5]:
                print(f"{source} -> {target}")
            print(f"{len(moves):,} images would be moved into {classes:,} folders; {done:,} are in theirs")
            return
        for source, target in moves:
            target.parent.mkdir(exist_ok=True)
            source.rename(target)
        print(f"{len(moves):,} images moved into {classes:,} folders; {done:,} were in theirs")
    except Mistake as mistake:
        sys.exit(f"error: {mistake}")
    except OSError as error:
        sys.exit(f"error: {error.filename}: {error.strerror}; start again to go on")
    except KeyboardInterrupt:
        sys.exit("interrupted; start again to go on")


if __name__ == "__main__":
    main()
