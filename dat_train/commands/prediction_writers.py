"""Predictions as text: a table, CSV or JSON lines."""

import csv
import io
import json
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from dat_train.data.images import printable

WIDEST = 60  # characters of the column of paths


class Guess(NamedTuple):
    """Class and its probability in [0, 1]."""

    name: str
    index: int
    probability: float


class Prediction(NamedTuple):
    """Classes of an image, most probable first. None if the image could not be read; `why` is the reason."""

    path: str
    guesses: list[Guess] | None
    why: str = ""


class Writer(Protocol):
    """Text of the output, part by part; each part ends with a newline."""

    def header(self) -> str: ...
    def row(self, prediction: Prediction) -> str: ...


class TableWriter:
    """Aligned columns: path, probability, class; a line for each guess, with the path on the first."""

    def __init__(self, paths: Sequence[str]) -> None:
        self.path_width = _width(map(printable, paths))

    def header(self) -> str:
        return ""

    def row(self, prediction: Prediction) -> str:
        if not prediction.guesses:
            return f"{printable(prediction.path):<{self.path_width}}  (no label)\n"
        first = [printable(prediction.path), *[""] * (len(prediction.guesses) - 1)]
        return "".join(
            f"{path:<{self.path_width}}  {100 * guess.probability:6.2f} %  {guess.name}\n"
            for path, guess in zip(first, prediction.guesses, strict=True)
        )


class CsvWriter:
    """A row for each image: path, class and probability of the first guess, of the second, ..."""

    def __init__(self, top: int) -> None:
        self.top = top

    def header(self) -> str:
        numbers = range(1, self.top + 1)
        return _csv_line(["path", *(f"{name}_{number}" for number in numbers for name in ("class", "probability"))])

    def row(self, prediction: Prediction) -> str:
        cells = (cell for guess in prediction.guesses for cell in (guess.name, f"{guess.probability:.6f}"))
        return _csv_line([printable(prediction.path), *cells])


class JsonLinesWriter:
    """An object for each image: {"path", "top": [{"class", "index", "probability"}, ...]}."""

    def header(self) -> str:
        return ""

    def row(self, prediction: Prediction) -> str:
        return _json_line(prediction, "top")


class LabelsCsvWriter:
    """A row for each image: path, labels separated by ";", and their probabilities.

    `data=csv` of a multi-label task reads such a file.
    """

    def header(self) -> str:
        return _csv_line(["path", "labels", "probabilities"])

    def row(self, prediction: Prediction) -> str:
        labels = ";".join(guess.name for guess in prediction.guesses)
        probabilities = ";".join(f"{guess.probability:.6f}" for guess in prediction.guesses)
        return _csv_line([printable(prediction.path), labels, probabilities])


class LabelsJsonWriter:
    """An object for each image: {"path", "labels": [{"class", "index", "probability"}, ...]}."""

    def header(self) -> str:
        return ""

    def row(self, prediction: Prediction) -> str:
        return _json_line(prediction, "labels")


def writer_for(
    format: str, paths: Sequence[str], classes: Sequence[str], top: int, multi_label: bool = False
) -> Writer:
    """Return the writer of `format`: table, csv or jsonl.

    Args:
        multi_label: any number of classes for each image, instead of `top`.
    """
    if format == "csv":
        return LabelsCsvWriter() if multi_label else CsvWriter(min(top, len(classes)))
    if format == "jsonl":
        return LabelsJsonWriter() if multi_label else JsonLinesWriter()
    return TableWriter(paths)


def _json_line(prediction: Prediction, key: str) -> str:
    classes = [
        {"class": guess.name, "index": guess.index, "probability": round(guess.probability, 6)}
        for guess in prediction.guesses
    ]
    return json.dumps({"path": printable(prediction.path), key: classes}, ensure_ascii=False) + "\n"


def _width(texts) -> int:
    return min(WIDEST, max(map(len, texts)))


def _csv_line(cells: Sequence[str]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue()
