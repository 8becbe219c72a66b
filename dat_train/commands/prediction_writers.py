"""Predictions as text: a table, CSV or JSON lines."""

import json
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

from dat_train.atomic import csv_text
from dat_train.data.images import printable

WIDEST = 60  # maximum width of the column of paths, characters


class Guess(NamedTuple):
    """Class and its probability in [0, 1]."""

    name: str
    index: int
    probability: float


class Writer(NamedTuple):
    """Output format: the header, and a function from path and guesses (best first) to lines of text."""

    header: str
    row: Callable[[str, Sequence[Guess]], str]


def writer_for(format: str, paths: Sequence[str], number: int, *, multi_label: bool) -> Writer:
    """Return the writer of `format`: table, csv or jsonl.

    Args:
        number: guesses for each image.
        multi_label: the number of guesses varies; `number` is ignored.
    """
    if format == "table":
        width = min(WIDEST, max(len(printable(path)) for path in paths))
        return Writer("", partial(_table_row, width=width))
    if format == "jsonl":
        return Writer("", partial(_json_row, key="labels" if multi_label else "top"))
    if multi_label:
        return Writer(csv_text([("path", "labels", "probabilities")]), _labels_row)
    names = (f"{name}_{place}" for place in range(1, number + 1) for name in ("class", "probability"))
    return Writer(csv_text([("path", *names)]), _csv_row)


def _table_row(path: str, guesses: Sequence[Guess], *, width: int) -> str:
    """Aligned columns: path, probability, class; a line for each guess, with the path on the first."""
    if not guesses:
        return f"{printable(path):<{width}}  (no label)\n"
    first = [printable(path), *[""] * (len(guesses) - 1)]
    return "".join(
        f"{start:<{width}}  {100 * guess.probability:6.2f} %  {guess.name}\n"
        for start, guess in zip(first, guesses, strict=True)
    )


def _csv_row(path: str, guesses: Sequence[Guess]) -> str:
    """Path, class and probability of the first guess, of the second, ..."""
    return csv_text([[printable(path), *(cell for guess in guesses for cell in (guess.name, _number(guess)))]])


def _labels_row(path: str, guesses: Sequence[Guess]) -> str:
    """Path, labels separated by ";", and their probabilities. `data=csv` of a multi-label task reads such a file."""
    return csv_text([(printable(path), ";".join(guess.name for guess in guesses), ";".join(map(_number, guesses)))])


def _json_row(path: str, guesses: Sequence[Guess], *, key: str) -> str:
    """{"path", KEY: [{"class", "index", "probability"}, ...]}."""
    classes = [
        {"class": guess.name, "index": guess.index, "probability": round(guess.probability, 6)} for guess in guesses
    ]
    return json.dumps({"path": printable(path), key: classes}, ensure_ascii=False) + "\n"


def _number(guess: Guess) -> str:
    return f"{guess.probability:.6f}"
