"""Images listed in a CSV table with columns for path, label and, optionally, split."""

import codecs
import csv
import io
import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from dat_train.data.catalog import Catalog, sorted_catalog
from dat_train.data.image_source import Paths
from dat_train.errors import UserError

PATH_COLUMNS = ("path", "image", "file", "filename", "file_name", "filepath", "image_path", "image_id")
LABEL_COLUMNS = ("label", "labels", "class", "classes", "target", "category", "tags")
SPLIT_COLUMNS = ("split", "subset", "set", "fold")
SEPARATORS = r"[;|\s]+"  # between the labels of one image; in a table separated by semicolons only | and spaces


class CsvTable:
    """Images of a CSV file. Paths are relative to its folder.

    Args:
        path: the file, or a folder with one CSV file in it.
        image_column, label_column: headings; None: the usual ones.
        multi_label: the label column holds several labels, separated by spaces, ";" or "|".
    """

    def __init__(
        self, path: Path, image_column: str | None = None, label_column: str | None = None, multi_label: bool = False
    ) -> None:
        self.path = _csv_file(path)
        self.name = str(self.path)
        self.multi_label = multi_label
        rows = read_table(self.path)
        header = [name.strip().lower() for name in rows[0]] if rows else []
        image = self._column(header, image_column, PATH_COLUMNS, "data.image_column")
        label = self._column(header, label_column, LABEL_COLUMNS, "data.label_column")
        split = next((header.index(name) for name in SPLIT_COLUMNS if name in header), None)
        short = next((number for number, row in enumerate(rows, start=1) if len(row) < len(header)), None)
        if short:
            raise UserError(f"{self.path}, line {short}: {len(rows[short - 1])} fields, the heading has {len(header)}")
        self.images = [row[image].strip() for row in rows[1:]]
        self.labels = [row[label].strip() for row in rows[1:]]
        self.parts = [row[split].strip() if split is not None else "" for row in rows[1:]]

    def splits(self) -> list[str]:
        """Values in the split column."""
        return [part for part in dict.fromkeys(self.parts) if part]

    def open(self, split: str | None) -> Catalog:
        """Return the images of a split, or all.

        Raises:
            UserError: no images, or one without a label.
        """
        rows = [row for row, part in enumerate(self.parts) if split is None or part == split]
        if not rows:
            raise UserError(f"{self.path} lists no images{f' of {split}' if split else ''}")
        empty = next((row for row in rows if not self.images[row] or not (self.labels[row] or self.multi_label)), None)
        if empty is not None:
            raise UserError(f"{self.path}, line {empty + 2}: no path or no label")
        names = [self.images[row] for row in rows]
        source = Paths([str(self.path.parent / name) for name in names])
        names = [str(PurePosixPath(name.replace("\\", "/"))).lstrip("/") for name in names]
        if not self.multi_label:
            return sorted_catalog(names, [self.labels[row] for row in rows], base=str(self.path.parent), source=source)
        sets = [[label for label in re.split(SEPARATORS, self.labels[row]) if label] for row in rows]
        return self._multi_label(names, sets, source)

    def _multi_label(self, names: Sequence[str], sets: Sequence[Sequence[str]], source: Paths) -> Catalog:
        """Images sorted by name; the first of an image's labels, or class 0, is its single label."""
        whole = sorted_catalog(names, [""] * len(names), base=str(self.path.parent), source=source)
        order = sorted(range(len(names)), key=lambda row: names[row])
        classes = sorted({label for labels in sets for label in labels})
        position = {name: number for number, name in enumerate(classes)}
        targets = np.zeros((len(names), len(classes)), bool)
        for place, row in enumerate(order):
            targets[place, [position[label] for label in sets[row]]] = True
        samples = whole.samples.with_labels(targets.argmax(1) if classes else whole.samples.labels)
        return Catalog(classes, samples, whole.base, whole.source, targets=targets)

    def _column(self, header: Sequence[str], wanted: str | None, usual: Sequence[str], setting: str) -> int:
        for name in (wanted.strip().lower(),) if wanted else usual:
            if name in header:
                return header.index(name)
        raise UserError(
            f"{self.path} has the columns {', '.join(header) or 'none'}; none of them is {wanted or usual[0]}: set "
            f"{setting}=NAME"
        )


def read_table(path: Path) -> list[list[str]]:
    """Rows of a CSV file separated by commas, semicolons or tabs, in UTF-8 or UTF-16, with or without a BOM."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from error
    wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    text = content.decode("utf-16" if wide else "utf-8-sig", "surrogateescape" if not wide else "replace")
    first = text.partition("\n")[0]
    delimiter = max(",;\t", key=first.count)
    return [row for row in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter) if row]


def _csv_file(path: Path) -> Path:
    if path.is_file():
        return path
    files = sorted(path.glob("*.csv"))
    if len(files) != 1:
        names = ", ".join(file.name for file in files[:5])
        raise UserError(f"data.root={path} has {f'several tables ({names}); name one' if files else 'no .csv file'}")
    return files[0]
