"""HTML page that compares runs: results, curves, settings, evaluation, classes, confusions, mistakes, faults."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from dat_train.run_report.charts import Line, line_chart
from dat_train.run_report.curves import smooth, thin_out
from dat_train.run_report.evaluation_sections import classes, confusions, evaluations, mistakes
from dat_train.run_report.metrics import number_format, title, unit, validation_metrics, value
from dat_train.run_report.run_record import RunRecord
from dat_train.run_report.run_tables import dot, escaped, run_table, side_by_side, wide
from dat_train.runtime.html_page import write_page
from dat_train.settings import flat

POINTS = 400  # points of a line


def write_run_page(runs: Sequence[RunRecord], path: Path) -> Path:
    """Write the page of `runs`, with the images of mistakes that can still be read."""
    sections = [
        ("Results", results(runs)),
        ("Curves", curves(runs)),
        ("Settings", settings(runs)),
        ("Evaluation", evaluations(runs)),
        ("Classes", classes(runs)),
        ("Confusions", side_by_side(runs, confusions)),
        ("Most confident mistakes", side_by_side(runs, mistakes)),
        ("Faults", faults(runs)),
    ]
    boxes = "".join(
        f'<label><input type="checkbox" checked value="{number}">{dot(number)}{escaped(run.name)}</label>'
        for number, run in enumerate(runs)
    )
    body = "".join(f"<section><h2>{heading}</h2>{content}</section>" for heading, content in sections if content)
    name = runs[0].name if len(runs) == 1 else f"{len(runs)} runs"
    return write_page(
        Path(__file__).with_name("run_page.html"), path, title=escaped(f"Report: {name}"), runs=boxes, body=body
    )


def results(runs: Sequence[RunRecord]) -> str:
    """Final numbers of every run. The best of each row is marked if values differ; runs may have different tasks."""

    def known(run: RunRecord, metric: str) -> list[float]:
        return [found for row in run.validations if (found := value(row, metric)) is not None]

    def best(run: RunRecord, score: str) -> float | None:
        if run.score != score:
            return None
        return run.summary.get(f"best_{score}", max(known(run, score), default=None))

    def last(run: RunRecord, metric: str) -> float | None:
        return next(reversed(known(run, metric)), None)

    def named(prefix: str, metric: str) -> str:
        return f"{prefix} {title(metric)}" + (f",{unit(metric)}" if unit(metric) else "")

    scores = [score for score in dict.fromkeys(run.score for run in runs) if score]
    metrics = validation_metrics(row for run in runs for row in run.validations)
    measures: list[tuple[str, Callable[[RunRecord], float | None], str, int]] = [  # heading, value, format, better
        *((named("best", score), partial(best, score=score), number_format(score), 1) for score in scores),
        *(
            (named("last", metric), partial(last, metric=metric), number_format(metric), 1)
            for metric in metrics
            if not metric.startswith("loss")
        ),
        ("last validation loss", partial(last, metric="loss"), ".4f", -1),
        ("epochs done", lambda run: run.last_step.get("epoch"), ".4g", 0),
        ("parameters", lambda run: run.summary.get("parameters"), ",", 0),
        ("MACs", lambda run: run.summary.get("macs"), ",", 0),
        ("images per second, median", _median_throughput, ",.0f", 1),
        ("seconds", lambda run: run.summary.get("seconds"), ",.0f", 0),
    ]
    rows = []
    for heading, read, form, better in measures:
        values = [read(run) for run in runs]
        ranks = [better * number for number in values if number is not None]
        if not ranks:
            continue
        cells = []
        for number in values:
            leads = better and len(set(ranks)) > 1 and number is not None and better * number == max(ranks)
            text = "" if number is None else format(number, form)
            cells.append(f'<td class="number{" best" if leads else ""}">{text}</td>')
        rows.append(f'<tr><th scope="row">{heading}</th>{"".join(cells)}</tr>')
    machines = "".join(f"<td>{escaped(_machine(run))}</td>" for run in runs)
    rows.append(f'<tr><th scope="row">ran on</th>{machines}</tr>')
    unfinished = [run.name for run in runs if not run.summary]
    note = f"<p class='soft'>Not finished: {escaped(', '.join(unfinished))}.</p>" if unfinished else ""
    return wide(run_table(runs, rows)) + note


def curves(runs: Sequence[RunRecord]) -> str:
    """One chart for each quantity, with a line for each run that has it."""

    def lines(read: Callable[[RunRecord], tuple[Sequence[float], Sequence[float]]]) -> list[Line]:
        found = []
        for number, run in enumerate(runs):
            x, y = (np.array(values, float) for values in read(run))
            if len(x):
                every = -(-len(x) // POINTS)
                keep = np.union1d(np.arange(0, len(x), every), [len(x) - 1])
                found.append(Line(number, x[keep], y[keep]))
        return found

    def validation(run: RunRecord, metric: str) -> tuple[list, list]:
        rows = [row for row in run.validations if value(row, metric) is not None]
        return [row["epoch"] for row in rows], [value(row, metric) for row in rows]

    def loss(run: RunRecord) -> tuple[np.ndarray, np.ndarray]:
        sound = run.steps[np.isfinite(run.steps[:, 1])]
        return thin_out(sound[:, 0], smooth(sound[:, 1]), extremes=False) if len(sound) else ((), ())

    def outside(run: RunRecord) -> tuple[list, list]:
        means = [
            np.mean([share for name, share in row.items() if name.startswith("offset_outside/") and share is not None])
            for row in run.offsets
        ]
        return [row["epoch"] for row in run.offsets], [100 * mean for mean in means]

    names = [run.name for run in runs]
    charts = [
        line_chart("training loss, smoothed", lines(loss), names),
        *(
            line_chart(f"validation {title(score)}", lines(partial(validation, metric=score)), names, unit(score))
            for score in dict.fromkeys(run.score for run in runs)
            if score
        ),
        line_chart("validation loss", lines(partial(validation, metric="loss")), names),
        line_chart("learning rate", lines(lambda run: (run.steps[:, 0], run.steps[:, 2])), names),
        line_chart("throughput", lines(lambda run: run.throughput.T), names, " images/s"),
        line_chart("sampling points outside the map", lines(outside), names, " %"),
    ]
    drawn = "".join(charts)
    return f'<div class="charts">{drawn}</div>' if drawn else "<p class='soft'>No step is done yet.</p>"


def settings(runs: Sequence[RunRecord]) -> str:
    """Settings of all runs; different settings come first."""
    tables = [flat(run.config) for run in runs]
    keys = list(dict.fromkeys(key for table in tables for key in table))
    differing = [key for key in keys if len({repr(table.get(key, "")) for table in tables}) > 1]

    def row(key: str, marked: bool) -> str:
        texts = [_shown(table[key]) if key in table else "" for table in tables]
        cells = "".join(f"<td><code>{escaped(text)}</code></td>" for text in texts)
        return f'<tr{" class=differs" if marked else ""}><th scope="row"><code>{escaped(key)}</code></th>{cells}</tr>'

    parts = []
    if len(runs) > 1:
        marked = [row(key, True) for key in differing]
        parts.append(wide(run_table(runs, marked)) if marked else "<p>All settings are the same.</p>")
    everything = wide(run_table(runs, [row(key, key in differing) for key in keys]))
    parts.append(f"<details><summary>All {len(keys)} settings</summary>{everything}</details>")
    return "".join(parts)


def faults(runs: Sequence[RunRecord]) -> str:
    """Skipped steps, unreadable images, restarts and warnings of each run."""
    counts = {"steps skipped (not finite)": "skipped", "unreadable images": "unreadable"}
    rows = []
    for heading, key in counts.items():
        cells = "".join(_fault(run.last_step.get(key, 0)) for run in runs)
        rows.append(f'<tr><th scope="row">{heading}</th>{cells}</tr>')
    rows.append(f'<tr><th scope="row">restarts</th>{"".join(_fault(max(len(run.starts) - 1, 0)) for run in runs)}</tr>')
    warnings = "".join(f"<td>{_warnings(run)}</td>" for run in runs)
    rows.append(f'<tr><th scope="row">warnings in the log</th>{warnings}</tr>')
    return wide(run_table(runs, rows))


def _fault(count: int) -> str:
    return f"<td{' class=fault' if count else ''}>{count:,}</td>"


def _warnings(run: RunRecord) -> str:
    lines = [
        f"{start['started']}: resumed at step {start['step']:,} on {start['host']}, "
        f"{start['processes']} x {start['device']}"
        for start in run.starts[1:]
    ]
    for text, count, time in run.warnings:
        lines.append(f"{time}: {text}" + (f" (and {count - 1:,} similar)" if count > 1 else ""))
    return "".join(f"<p>{escaped(line)}</p>" for line in lines) or "none"


def _median_throughput(run: RunRecord) -> float | None:
    return float(np.median(run.throughput[:, 1])) if len(run.throughput) else None


def _machine(run: RunRecord) -> str:
    if not run.starts:
        return ""
    start = run.starts[-1]
    return f"{start['processes']} x {start['device']}, torch {start['torch']}"


def _shown(value: object) -> str:
    """Value of a setting as typed on the command line."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return f"[{','.join(map(_shown, value))}]" if isinstance(value, list) else str(value)
