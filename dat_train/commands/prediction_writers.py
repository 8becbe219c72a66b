"""Predictions as text: a table, CSV or JSON lines."""

import csv
import io
import json
from collections.abc import Callable, Sequence
from typing import NamedTuple

from dat_train.data.images import printable

MAX_WIDTH = 60  # characters of a path or class name that a table's column grows to


class Guess(NamedTuple):
    """Class and its probability in [0, 1]."""

    name: str
    index: int
    probability: float


class Prediction(NamedTuple):
    """Most probable classes of an image, best first. Empty if the image could not be read; `why` is the reason."""

    path: str
    guesses: list[Guess]
    why: str = ""


def row_writer(
    form: str, paths: Sequence[str], classes: Sequence[str], top: int
) -> tuple[str, Callable[[Prediction], str]]:
    """Head of the output, and a function from a prediction to its line; both end with a newline if not empty.

    Args:
        form: "table": aligned columns of path, probability and class of each guess; "csv": path, class and probability
            of the first guess, of the second, ...; "jsonl": {"path", "top": [{"class", "index", "probability"}, ...]}.
    """
    path_width, class_width = (min(MAX_WIDTH, max(map(len, texts))) for texts in (map(printable, paths), classes))

    def table(found: Prediction) -> str:
        cells = (f"{100 * guess.probability:6.2f} %  {guess.name:<{class_width}}" for guess in found.guesses)
        return "  ".join([f"{printable(found.path):<{path_width}}", *cells]).rstrip() + "\n"

    def csv_line(found: Prediction) -> str:
        cells = (cell for guess in found.guesses for cell in (guess.name, f"{guess.probability:.6f}"))
        return _csv_line([printable(found.path), *cells])

    def json_line(found: Prediction) -> str:
        guesses = [
            {"class": guess.name, "index": guess.index, "probability": round(guess.probability, 6)}
            for guess in found.guesses
        ]
        return json.dumps({"path": printable(found.path), "top": guesses}, ensure_ascii=False) + "\n"

    numbers = range(1, min(top, len(classes)) + 1)
    head = ["path", *(f"{name}_{number}" for number in numbers for name in ("class", "probability"))]
    line = {"table": table, "csv": csv_line, "jsonl": json_line}[form]
    return (_csv_line(head) if form == "csv" else ""), line


def _csv_line(cells: Sequence[str]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue()
