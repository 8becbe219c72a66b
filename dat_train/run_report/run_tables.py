"""HTML tables and parts with one column for each run."""

import html
from collections.abc import Callable, Sequence

from dat_train.run_report.charts import color
from dat_train.run_report.run_record import RunRecord
from dat_train.runtime.display_text import one_line


def side_by_side(runs: Sequence[RunRecord], part: Callable[[RunRecord], str]) -> str:
    """The parts of all runs that have one, side by side under the names of the runs."""
    parts = [(number, run, part(run)) for number, run in enumerate(runs)]
    shown = [
        f'<div><p class="run">{dot(number)}{escaped(run.name)}</p>{content}</div>'
        for number, run, content in parts
        if content
    ]
    return f'<div class="side">{"".join(shown)}</div>' if shown else ""


def run_table(runs: Sequence[RunRecord], rows: Sequence[str], first: str = "<td></td>") -> str:
    """A table with a column for each run; `first` is the head of the columns before."""
    names = [f'<span class="run">{dot(number)}{escaped(run.name)}</span>' for number, run in enumerate(runs)]
    heads = "".join(f'<th scope="col">{name}</th>' for name in names)
    return f"<table><tr>{first}{heads}</tr>{''.join(rows)}</table>"


def wide(content: str) -> str:
    """Content that scrolls if it is wider than the page, also by keyboard."""
    return f'<div class="wide" tabindex="0">{content}</div>'


def dot(run: int) -> str:
    """Dot in the color of a run."""
    return f'<i class="dot" style="background:{color(run)}"></i>'


def escaped(text: str) -> str:
    """Text of unknown content (names, paths) for HTML: on one line, printable."""
    return html.escape(one_line(text))


def name_html(text: str) -> str:
    """A class name as HTML; names may be written from right to left."""
    return f"<bdi>{escaped(text)}</bdi>"
