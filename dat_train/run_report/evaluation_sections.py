"""The sections of a report's page about what dat-eval found: numbers, classes, confusions, mistakes."""

from collections.abc import Sequence

import numpy as np

from dat_train.data.images import UnreadableImage, read_rgb
from dat_train.run_report.page_pieces import escaped, run_table, wide
from dat_train.run_report.run_record import RunRecord
from dat_train.runtime.html_page import jpeg_url

MOST_CLASSES = 50  # shown one by one, and as a confusion matrix; of more, the worst and the most confused
SHOWN_WORST = 20  # classes or confusions where there are more
NUMBERED = 20  # classes up to which a confusion matrix has numbers in its cells
SHORT = 4  # characters of a class' name that fit over a column
TILES = 24  # mistakes of a run
TILE = 128  # pixels
BLUE = (31, 95, 168)


def evaluations(runs: Sequence[RunRecord]) -> str:
    """What dat-eval found, and with what; how to have it where it is missing."""
    parts = []
    evaluated = [run for run in runs if run.evaluation]
    if evaluated:
        shown = {"top1": ".2f", "top5": ".2f", "loss": ".4f", "images": ",", "images_per_second": ",.0f"}
        said = ("checkpoint", "weights", "data", "img_size", "resize", "crop_pct", "dtype", "device")
        rows = []
        for key in (*shown, *said):
            values = [run.evaluation.get(key) for run in runs]
            cells = "".join(
                f'<td class="number">{format(value, shown[key])}</td>'
                if key in shown and value is not None
                else f"<td>{escaped('' if value is None else str(value))}</td>"
                for value in values
            )
            rows.append(f'<tr><th scope="row">{key}</th>{cells}</tr>')
        parts.append(wide(run_table(runs, rows)))
    parts += [
        f"<p>{escaped(run.name)} is not evaluated yet: <code>dat-eval ckpt={escaped(str(run.folder))}/checkpoints/"
        "best.pt</code> writes accuracy by class, confusions and mistakes to its folder.</p>"
        for run in runs
        if not run.evaluation
    ]
    return "".join(parts)


def classes(runs: Sequence[RunRecord]) -> str:
    """Top-1 of each class, runs side by side; the worst, by the mean over runs, where there are many."""
    tables = [{row["name"]: row for row in run.classes if row["top1"] is not None} for run in runs]
    images = {name: row["images"] for table in reversed(tables) for name, row in table.items()}
    names = list(dict.fromkeys(name for table in tables for name in table))
    note = ""
    if len(names) > MOST_CLASSES:
        note = f"<p class='soft'>The {SHOWN_WORST} worst of {len(names):,}.</p>"
        names.sort(key=lambda name: np.mean([table[name]["top1"] for table in tables if name in table]))
        names = names[:SHOWN_WORST]

    def cell(top1: float | None) -> str:
        bar = "" if top1 is None else f'<span class="bar" style="width:{top1 / 20:.2f}rem"></span> {top1:.1f} %'
        return f"<td>{bar}</td>"

    rows = []
    for name in names:
        cells = "".join(cell(table.get(name, {}).get("top1")) for table in tables)
        rows.append(f'<tr><th scope="row">{escaped(name)}</th><td class="number">{images[name]}</td>{cells}</tr>')
    return note + wide(run_table(runs, rows, "<th>class</th><th class=number>images</th>")) if rows else ""


def confusions(run: RunRecord) -> str:
    """The matrix of true and predicted classes; the most frequent confusions where there are many classes."""
    if not run.classes:
        return ""
    if len(run.classes) <= MOST_CLASSES:
        return f"<p class='soft'>Rows: true; columns: predicted; shade: share of the row.</p>{wide(_matrix(run))}"
    rows = [
        f"<tr><td>{escaped(true)}</td><td>{escaped(predicted)}</td><td class=number>{count}</td></tr>"
        for true, predicted, count in run.confused[:SHOWN_WORST]
    ]
    return wide(f"<table><tr><th>true</th><th>predicted</th><th class=number>images</th></tr>{''.join(rows)}</table>")


def _matrix(run: RunRecord) -> str:
    names = [row["name"] for row in run.classes]
    counts = {(row["name"], row["name"]): row["correct"] for row in run.classes}
    counts |= {(true, predicted): count for true, predicted, count in run.confused}
    short = max(map(len, names)) <= SHORT  # else numbers stand for them
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
            title = escaped(f"{row['name']} taken for {predicted}: {count} ({share:.1%})")
            number = str(count) if count and len(names) <= NUMBERED else ""
            cells.append(f'<td title="{title}"{_heat(share) if count else ""}>{number}</td>')
        label = escaped(row["name"] if short else f"{row['name']} {place}")
        rows.append(f'<tr><th scope="row">{label}</th>{"".join(cells)}</tr>')
    return f'<table class="confusion"><tr><td></td>{head}</tr>{"".join(rows)}</table>'


def mistakes(run: RunRecord) -> str:
    """The images of the surest mistakes, small."""
    tiles = []
    for row in run.wrong:
        try:
            image = read_rgb(row["path"])
        except (UnreadableImage, OSError):
            continue  # moved since, or made on the fly
        sharp = ' class="small"' if max(image.size) < TILE / 2 else ""
        image.thumbnail((TILE, TILE))
        caption = escaped(f"{row['true']}, taken for {row['predicted']} ({row['confidence']:.0f} %)")
        picture = f'<img{sharp} src="{jpeg_url(image)}" alt="{caption}" title="{escaped(row["path"])}">'
        tiles.append(f"<figure>{picture}{caption}</figure>")
        if len(tiles) == TILES:
            break
    if not tiles:
        return "<p class='soft'>None that can be shown.</p>" if run.evaluation else ""
    return f"<p class='soft'>{len(tiles)} of {len(run.wrong):,}.</p><div class=tiles>{''.join(tiles)}</div>"


def _heat(share: float) -> str:
    """The style of a cell: white to blue, with the text that is read best on it."""
    red, green, blue = (round(255 + (part - 255) * share) for part in BLUE)
    ink = "#000" if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else "#fff"
    return f' style="background:rgb({red},{green},{blue});color:{ink}"'
