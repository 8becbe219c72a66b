"""Images listed in a CSV table with columns for path, label and, optionally, split."""

import codecs
import csv
import io
import os
import re
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

import numpy as np

from dat_train.data.images import printable
from dat_train.data.reading.image_files import first_named, subfolders
from dat_train.data.reading.image_source import Paths
from dat_train.data.storages.catalog import Catalog, sorted_catalog
from dat_train.data.storages.split_names import split_key
from dat_train.errors import UserError

PATH_COLUMNS = ("path", "image", "file", "filename", "file_name", "filepath", "image_path", "image_name", "image_id")
LABEL_COLUMNS = ("label", "labels", "class", "classes", "target", "category", "tags")
SPLIT_COLUMNS = ("split", "subset", "set", "fold")
# Separators of the labels of one image. The first that occurs in the column is used, so "traffic light;car" has two.
SEPARATORS = (r"[;|]", r",", r"\s")
MAX_SEARCHED = 1000  # maximum number of files, and of folders, that are looked for before all paths count as missing
YES, NO = ("1", "1.0", "true", "yes"), ("0", "0.0", "false", "no", "")  # cells of a column for one class, lower case


class CsvTable:
    """Images of a CSV file. Paths are relative to its folder.

    Args:
        path: the file, or a folder with one CSV file in it.
        image_column, label_column: headings; None: the usual ones.
        multi_label: any number of labels per image. The label column holds them separated by ";" or "|"; in a column
            without these by commas, or else by spaces. A table without a label column has a column of 0 and 1 for each
            class.
    """

    def __init__(
        self, path: Path, image_column: str | None = None, label_column: str | None = None, multi_label: bool = False
    ) -> None:
        self.path = _csv_file(path)
        self.name = str(self.path)
        self.multi_label = multi_label
        (_, *self.lines), (headings, *rows) = read_table(self.path)
        self.headings = [name.strip() for name in headings]
        header = [name.lower() for name in self.headings]
        image = self._column(header, image_column, PATH_COLUMNS, "data.image_column")
        split = next((header.index(name) for name in SPLIT_COLUMNS if name in header), None)
        short = next((number for number, row in enumerate(rows) if len(row) < len(header)), None)
        if short is not None:
            raise self._wrong(short, f"{len(rows[short])} fields, the heading has {len(header)}")
        self.images = self._cells(rows, image)
        spelling: dict[str, str] = {}  # the first of each split
        parts = [row[split].strip() if split is not None else "" for row in rows]
        self.parts = [spelling.setdefault(split_key(part), part) for part in parts]
        self.classes: list[str] | None = None  # those of a table with a column for each
        self.notes: list[str] = []
        unused = self.parts.count("")
        if 0 < unused < len(rows):
            self.notes = [f"{self.path}: {unused:,} rows without a split are not used"]
        self.labels: list[list[str]]
        if multi_label and not label_column and not any(name in header for name in LABEL_COLUMNS):
            self._read_class_columns(rows, {image, split})
            return
        label = self._column(header, label_column, LABEL_COLUMNS, "data.label_column")
        cells = self._cells(rows, label)
        self.labels = _split_labels(cells) if multi_label else [[cell] if cell else [] for cell in cells]

    def splits(self) -> list[str]:
        """Values in the split column, each in the first of its spellings."""
        return [part for part in dict.fromkeys(self.parts) if part]

    def open(self, split: str | None) -> Catalog:
        """Return the images of a split, or all.

        Raises:
            UserError: no images, one without a label, or paths of which none exists.
        """
        rows = [row for row, part in enumerate(self.parts) if split is None or part == split]
        if not rows:
            raise UserError(f"{self.path} lists no images{f' of {split}' if split else ''}")
        empty = next((row for row in rows if not self.images[row] or not (self.multi_label or self.labels[row])), None)
        if empty is not None:
            raise self._wrong(empty, "no path or no label")
        folder = self.path.parent
        names = [str(PurePosixPath(self.images[row].replace("\\", "/"))).lstrip("/") for row in rows]
        files = [str(folder / _with_slashes(self.images[row], folder)) for row in rows]
        labels = [self.labels[row] for row in rows]
        catalog = (self._multi_label if self.multi_label else self._single_label)(names, files, labels)
        self._require_files(files, names[0])
        return catalog

    def _wrong(self, row: int, what: str) -> UserError:
        """Error about a row, with its line in the file."""
        return UserError(f"{self.path}, line {self.lines[row]}: {what}")

    def _cells(self, rows: Sequence[Sequence[str]], column: int) -> list[str]:
        """Cells of the column of paths or labels.

        Raises:
            UserError: a cell of several lines, which is usually the part of the table up to the next quote.
        """
        cells = [row[column].strip() for row in rows]
        broken = next((number for number, cell in enumerate(cells) if "\n" in cell or "\r" in cell), None)
        if broken is not None:
            raise self._wrong(broken, f"a line break in the column {self.headings[column]}; is a quote not closed?")
        return cells

    def _single_label(self, names: list[str], files: list[str], labels: list[list[str]]) -> Catalog:
        """Catalog in which every row of the table is a sample."""
        classes = [label for (label,) in labels]
        images, notes = len(set(names)), list(self.notes)
        if images < len(names):
            several = len(set(zip(names, classes, strict=True))) - images
            differ = (
                f"; {several:,} further labels of the same images: task=multilabel combines them" if several else ""
            )
            notes.append(f"{self.path}: {len(names):,} rows of {images:,} images{differ}")
        return sorted_catalog(names, classes, base=str(self.path.parent), source=Paths(files), notes=notes)

    def _multi_label(self, names: list[str], files: list[str], labels: list[list[str]]) -> Catalog:
        """Catalog sorted by name; the labels of all rows of an image are combined.

        The first of an image's labels, or class 0, is its single label.
        """
        combined: dict[str, list[str]] = {}
        file_of: dict[str, str] = {}
        for name, file, of_row in zip(names, files, labels, strict=True):
            combined.setdefault(name, []).extend(of_row)
            file_of.setdefault(name, file)
        classes = self.classes or sorted({label for of_row in labels for label in of_row})
        if not classes:
            raise UserError(f"{self.path} has no label: the label column is empty; set data.label_column=NAME")
        position = {label: number for number, label in enumerate(classes)}
        targets = np.zeros((len(combined), len(classes)), bool)
        for row, name in enumerate(sorted(combined)):
            targets[row, [position[label] for label in combined[name]]] = True
        notes = list(self.notes)
        if len(combined) < len(names):
            notes.append(f"{self.path}: {len(names):,} rows of {len(combined):,} images")
        if unlabeled := int((~targets.any(1)).sum()):
            notes.append(f"{self.path}: {unlabeled:,} images without a label")
        base, source = str(self.path.parent), Paths(list(file_of.values()))
        images = sorted_catalog(list(combined), [""] * len(combined), base=base, source=source, notes=notes)
        return replace(images, classes=classes, samples=images.samples.with_labels(targets.argmax(1)), targets=targets)

    def _require_files(self, files: Sequence[str], first: str) -> None:
        """Raise a UserError if none of `files` exists; a few missing ones are unreadable images.

        Args:
            first: path of the first of them in the table.
        """
        if any(os.path.exists(file) for file in files[:MAX_SEARCHED]):  # noqa: PTH110  no error for a wrong name
            return
        folder = self.path.parent
        places = [folder, folder.parent, *(folder / name for name in subfolders(folder)[:MAX_SEARCHED])]
        near = [f"{place / first}{suffix}" for place in places for suffix in ("", ".jpg", ".png", ".jpeg")]
        found = next((path for path in near if os.path.exists(path)), None)  # noqa: PTH110
        meant = f"; did you mean {printable(found)}?" if found else ""
        raise UserError(
            f"none of the {len(files):,} paths in data.root={self.path} exists; the first is {printable(files[0])}"
            f"{meant}; write paths relative to {folder}, the folder of the table, or absolute ones"
        )

    def _read_class_columns(self, rows: Sequence[Sequence[str]], others: Collection[int | None]) -> None:
        """Set classes and labels of a table with a column of 0 and 1 for each class.

        Args:
            others: numbers of the columns that are not classes.

        Raises:
            UserError: no column of 0 and 1, or a name that is not that of one class.
        """
        columns: list[tuple[str, int]] = []
        left_out = []
        for number, name in enumerate(self.headings):
            if number in others:
                continue
            cells = [row[number].strip().lower() for row in rows]
            other = next((cell for cell in cells if cell not in YES and cell not in NO), None)
            if other is None and any(cells):
                columns.append((name, number))
            else:
                left_out.append(f"{name} ({other or 'empty'})")
        if not columns:
            raise UserError(
                f"{self.path} has neither a column of labels ({', '.join(LABEL_COLUMNS)}) nor a column of 0 and 1 for "
                f"each class; its columns are {first_named(self.headings)}: set data.label_column=NAME"
            )
        if left_out:
            self.notes.append(f"{self.path}: columns that are not 0 and 1 are not used: {first_named(left_out)}")
        self.classes = sorted(name for name, _ in columns)
        twice = next((name for name in self.classes if self.classes.count(name) > 1 or not name), None)
        if twice is not None:
            raise UserError(f"{self.path}: {twice!r} is not the name of one class; rename the columns of 0 and 1")
        self.labels = [[name for name, number in columns if row[number].strip().lower() in YES] for row in rows]

    def _column(self, header: Sequence[str], wanted: str | None, usual: Sequence[str], setting: str) -> int:
        for name in (wanted.strip().lower(),) if wanted else usual:
            if name in header:
                return header.index(name)
        raise UserError(
            f"{self.path} has the columns {', '.join(header) or 'none'}; none of them is {wanted or usual[0]}: set "
            f"{setting}=NAME"
        )


def _split_labels(cells: Sequence[str]) -> list[list[str]]:
    """Labels of each row of a label column. The separator is that of the whole column."""
    separator = next((pattern for pattern in SEPARATORS if any(re.search(pattern, cell) for cell in cells)), r"\s")
    return [[label.strip() for label in re.split(separator, cell) if label.strip()] for cell in cells]


def _with_slashes(name: str, folder: Path) -> str:
    """Path of a table that may have been written on Windows, with "/" as separator."""
    if "\\" not in name or os.path.exists(folder / name):  # noqa: PTH110  no error for a name that is too long
        return name
    return name.replace("\\", "/")


def read_table(path: Path) -> tuple[list[int], list[list[str]]]:
    """First lines, counted from 1, and cells of the rows of a CSV file; the first row is the heading.

    The separator is a comma, semicolon or tab, or that of a first line "sep=;", as Excel writes it. The encoding is
    UTF-8, UTF-16 or Windows-1252. Empty lines are left out.

    Raises:
        UserError: a file that cannot be read, or with a cell of more than 131,072 characters.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from error
    wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = content.decode("utf-16" if wide else "utf-8-sig", "replace" if wide else "strict")
    except UnicodeDecodeError:  # as spreadsheets in Western Europe write it
        text = content.decode("cp1252", "replace")
    first, _, rest = text.partition("\n")
    above = 0
    if named := re.fullmatch(r'"?sep=([,;\t|])"?\s*', first, re.IGNORECASE):
        delimiter, text, above = named[1], rest, 1
    else:
        delimiter = max(",;\t", key=first.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    lines, rows, line = [], [], above + 1
    try:
        for row in reader:
            if row:
                lines.append(line)
                rows.append(row)
            line = above + reader.line_num + 1
    except csv.Error as error:
        raise UserError(f"{path}, line {line}: {error}; is a quote not closed?") from error
    return (lines, rows) if rows else ([1], [[]])


def _csv_file(path: Path) -> Path:
    if path.is_file():
        return path
    files = sorted(path.glob("*.csv"))
    if len(files) != 1:
        names = ", ".join(file.name for file in files[:5])
        raise UserError(f"data.root={path} has {f'several tables ({names}); name one' if files else 'no .csv file'}")
    return files[0]
