"""Sections of a report about the results of dat-eval: metrics, classes, confusions, mistakes. For any task."""

from collections.abc import Sequence

import numpy as np

from dat_train.data.images import UnreadableImage, read_rgb
from dat_train.run_report.metrics import number_format, title, unit
from dat_train.run_report.run_record import RunRecord
from dat_train.run_report.run_tables import escaped, name_html, run_table, wide
from dat_train.runtime.html_page import jpeg_url

MAX_CLASSES = 50  # up to this number, all classes are listed, and confusions are shown as a matrix
MAX_WORST = 20  # with more classes: number of worst classes, or of most frequent confusions
MAX_NUMBERED = 20  # classes up to which the cells of a confusion matrix have numbers
SHORT = 4  # characters of a class name that fit over a column
MAX_TILES = 24  # mistakes of a run
TILE = 128  # pixels
CLASS_METRICS = {"top1": "images", "iou": "pixels", "ap": "images"}  # in per_class.csv: metric, what is counted
BLUE = (31, 95, 168)


def evaluations(runs: Sequence[RunRecord]) -> str:
    """Metrics and settings of the evaluations; for runs without one, the command to type."""
    parts = []
    if any(run.evaluation for run in runs):
        keys = dict.fromkeys(
            key
            for run in runs
            for key, found in run.evaluation.items()
            if found is None or isinstance(found, bool | int | float | str)
        )
        rows = []
        for key in keys:
            cells = "".join(_result_cell(key, run.evaluation.get(key)) for run in runs)
            heading = f"{title(key)},{unit(key)}" if unit(key) else escaped(key)
            rows.append(f'<tr><th scope="row">{heading}</th>{cells}</tr>')
        parts.append(wide(run_table(runs, rows)))
    parts += [
        f"<p>{escaped(run.name)} is not evaluated yet: <code>dat-eval ckpt={escaped(str(run.folder))}/checkpoints/"
        "best.pt</code> evaluates it, with accuracy by class, confusions and mistakes.</p>"
        for run in runs
        if not run.evaluation
    ]
    return "".join(parts)


def _result_cell(key: str, found: object) -> str:
    if isinstance(found, int | float) and not isinstance(found, bool):
        text = (
            f"{found:,}"
            if isinstance(found, int)
            else format(found, number_format(key) if unit(key) or key == "loss" else ".6g")
        )
        return f'<td class="number">{text}</td>'
    return f"<td>{escaped('' if found is None else str(found))}</td>"


def classes(runs: Sequence[RunRecord]) -> str:
    """Tables of the metrics of each class, with a column for each run; of many classes, only the worst."""
    return "".join(_class_table(runs, metric, counted) for metric, counted in CLASS_METRICS.items())


def _class_table(runs: Sequence[RunRecord], metric: str, counted: str) -> str:
    tables = [{row["name"]: row for row in run.classes if row.get(metric) is not None} for run in runs]
    counts = {name: row.get(counted) for table in reversed(tables) for name, row in table.items()}
    names = list(dict.fromkeys(name for table in tables for name in table))
    note = ""
    if len(names) > MAX_CLASSES:
        note = f"<p class='soft'>The {MAX_WORST} worst of {len(names):,}.</p>"
        names.sort(key=lambda name: np.mean([table[name][metric] for table in tables if name in table]))
        names = names[:MAX_WORST]

    def cell(share: float | None) -> str:
        bar = "" if share is None else f'<span class="bar" style="width:{share / 20:.2f}rem"></span> {share:.1f} %'
        return f"<td>{bar}</td>"

    rows = []
    for name in names:
        cells = "".join(cell(table.get(name, {}).get(metric)) for table in tables)
        count = "" if counts[name] is None else f"{counts[name]:,}"
        rows.append(f'<tr><th scope="row">{name_html(name)}</th><td class="number">{count}</td>{cells}</tr>')
    heads = f"<th>class</th><th class=number>{counted}</th>"
    return note + wide(run_table(runs, rows, heads)) if rows else ""


def confusions(run: RunRecord) -> str:
    """Confusion matrix; for many classes, the most frequent confusions."""
    if not run.classes or "correct" not in run.classes[0]:
        return ""
    if len(run.classes) <= MAX_CLASSES:
        note = "<p class='soft'>Rows: true class; columns: predicted class; shade: share of the row.</p>"
        return note + wide(_matrix(run))
    rows = [
        f"<tr><td>{name_html(true)}</td><td>{name_html(predicted)}</td><td class=number>{count}</td></tr>"
        for true, predicted, count in run.confused[:MAX_WORST]
    ]
    return wide(f"<table><tr><th>true</th><th>predicted</th><th class=number>images</th></tr>{''.join(rows)}</table>")


def _matrix(run: RunRecord) -> str:
    names = [row["name"] for row in run.classes]
    counts = {(row["name"], row["name"]): row["correct"] for row in run.classes}
    counts |= {(true, predicted): count for true, predicted, count in run.confused}
    short = max(map(len, names)) <= SHORT  # otherwise numbers
    heads = [name if short else str(place) for place, name in enumerate(names)]
    head = "".join(
        f'<th scope="col" title="{escaped(name)}">{escaped(text)}</th>' for name, text in zip(names, heads, strict=True)
    )
    rows = []
    for place, row in enumerate(run.classes):
        cells = []
        for predicted in names:
            count = counts.get((row["name"], predicted), 0)
            share = count / row["images"] if row["images"] else 0.0
            title = escaped(f"{row['name']} predicted as {predicted}: {count} ({share:.1%})")
            number = str(count) if count and len(names) <= MAX_NUMBERED else ""
            cells.append(f'<td title="{title}"{_heat(share) if count else ""}>{number}</td>')
        label = name_html(row["name"]) if short else f"{name_html(row['name'])} {place}"
        rows.append(f'<tr><th scope="row">{label}</th>{"".join(cells)}</tr>')
    return f'<table class="confusion"><tr><td></td>{head}</tr>{"".join(rows)}</table>'


def mistakes(run: RunRecord) -> str:
    """Small images of the most confident mistakes."""
    tiles = []
    for row in run.wrong:
        try:
            image = read_rgb(row["path"])
        except (UnreadableImage, OSError):
            continue  # moved, or not a file
        sharp = ' class="small"' if max(image.size) < TILE / 2 else ""
        image.thumbnail((TILE, TILE))
        text = escaped(f"{row['true']}, predicted {row['predicted']} ({row['confidence']:.0f} %)")
        picture = f'<img{sharp} src="{jpeg_url(image)}" alt="{text}" title="{escaped(row["path"])}">'
        caption = f"{name_html(row['true'])}, predicted {name_html(row['predicted'])} ({row['confidence']:.0f} %)"
        tiles.append(f"<figure>{picture}{caption}</figure>")
        if len(tiles) == MAX_TILES:
            break
    if not tiles:
        return "<p class='soft'>No image can be shown.</p>" if run.evaluation else ""
    return f"<p class='soft'>{len(tiles)} of {len(run.wrong):,}.</p><div class=tiles>{''.join(tiles)}</div>"


def _heat(share: float) -> str:
    """Style of a cell: white to blue, with a text color of sufficient contrast."""
    red, green, blue = (round(255 + (part - 255) * share) for part in BLUE)
    ink = "#000" if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else "#fff"
    return f' style="background:rgb({red},{green},{blue});color:{ink}"'
