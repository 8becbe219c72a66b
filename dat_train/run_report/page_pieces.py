"""Pieces of a report's page: tables with a column for each run, and what stands in them."""

import html
from collections.abc import Callable, Sequence

from dat_train.run_report.charts import colour
from dat_train.run_report.run_record import RunRecord


def side_by_side(runs: Sequence[RunRecord], part: Callable[[RunRecord], str]) -> str:
    """A part of each run that has it, side by side under the runs' names."""
    parts = [(number, run, part(run)) for number, run in enumerate(runs)]
    shown = [
        f'<div><p class="run">{dot(number)}{escaped(run.name)}</p>{content}</div>'
        for number, run, content in parts
        if content
    ]
    return f'<div class="side">{"".join(shown)}</div>' if shown else ""


def run_table(runs: Sequence[RunRecord], rows: Sequence[str], first: str = "<td></td>") -> str:
    names = [f'<span class="run">{dot(number)}{escaped(run.name)}</span>' for number, run in enumerate(runs)]
    heads = "".join(f'<th scope="col">{name}</th>' for name in names)
    return f"<table><tr>{first}{heads}</tr>{''.join(rows)}</table>"


def wide(content: str) -> str:
    """Something that may be wider than the page, and then scrolls; also by keyboard."""
    return f'<div class="wide" tabindex="0">{content}</div>'


def dot(run: int) -> str:
    return f'<i class="dot" style="background:{colour(run)}"></i>'


def escaped(text: str) -> str:
    return html.escape(text)
