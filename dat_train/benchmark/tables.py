"""Reports of a benchmark: a table, JSON, and a bar chart."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from rich import box
from rich.table import Table

from dat_train import atomic
from dat_train.benchmark.input_pipeline import OURS, LoaderSpeed, ratios
from dat_train.runtime.figure_file import new_figure, save_figure

BLUE, GRAY = "#1f5fa8", "#888888"


def tables(rows: Sequence[dict]) -> Iterator[Table]:
    """Console tables of the rows of `compared`: one for each mode, one of the models. x: ratio to the baseline."""
    for mode in dict.fromkeys(_mode(row) for row in rows):
        shown = _table(mode, "images/s", "x", "ms", "spread", "memory", "x")
        for row in rows:
            if _mode(row) == mode:
                shown.add_row(
                    row["name"],
                    f"{row['throughput']:,.1f}",
                    _ratio(row.get("speed_ratio")),
                    f"{1000 * row['latency']:,.1f}",
                    f"{100 * row['spread']:.0f} %",
                    f"{row['memory'] / 1e6:,.0f} MB" if row["memory"] else "",
                    _ratio(row.get("memory_ratio")),
                )
        yield shown
    models = {row["name"]: row for row in rows if row["parameters"]}
    if models:
        shown = _table("model", "parameters", "MACs")
        for name, row in models.items():
            shown.add_row(name, f"{row['parameters'] / 1e6:.2f} M", f"{row['macs'] / 1e9:.2f} G")
        yield shown


def data_tables(stages: dict[str, float], speeds: Sequence[LoaderSpeed], cores: dict[int, int]) -> Iterator[Table]:
    """Tables of the input pipeline: stages, loaders by number of workers, cores that GPUs need."""
    shown = _table("stage, one core", "ms an image", "share")
    for stage, seconds in stages.items():
        shown.add_row(stage, f"{1000 * seconds:.3f}", f"{100 * seconds / sum(stages.values()):.0f} %")
    yield shown
    shown = _table("loader", "workers", "images/s of a core", "x", "images/s", "x")
    for speed in speeds:
        other = {} if speed.name == OURS else ratios(speeds, speed.workers)[speed.name]
        shown.add_row(
            speed.name,
            str(speed.workers),
            f"{speed.images_per_core:,.0f}",
            _ratio(other.get("cpu")),
            f"{speed.images_per_second:,.0f}",
            _ratio(other.get("wall")),
        )
    yield shown
    shown = _table("a GPU that trains on", "needs")
    for speed, number in cores.items():
        shown.add_row(f"{speed:,} images/s", f"{number} core{'s' if number > 1 else ''}")
    yield shown


def _table(*titles: str) -> Table:
    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for number, title in enumerate(titles):
        shown.add_column(title, justify="right" if number else "left", no_wrap=bool(number), overflow="fold")
    return shown


def write_json(path: Path, metadata: dict, rows: Sequence[dict]) -> None:
    """Write the machine, the settings (`metadata`) and the rows as one JSON object."""
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic.write_json(path, metadata | {"results": list(rows)})


def write_chart(path: Path, title: str, rows: Sequence[dict], baseline: str | None) -> None:
    """Draw images per second as bars with the interquartile range as whiskers, a panel per mode; the baseline gray."""
    modes = list(dict.fromkeys(_mode(row) for row in rows))
    figure = new_figure(5.5 * len(modes), 1.6 + 0.45 * len(rows) / len(modes))
    figure.suptitle(title)
    for axes, mode in zip(figure.subplots(1, len(modes), squeeze=False)[0], modes, strict=True):
        shown = [row for row in rows if _mode(row) == mode][::-1]
        speeds = [row["throughput"] for row in shown]
        spreads = [row["throughput"] * row["spread"] / 2 for row in shown]
        colors = [GRAY if row["name"] == baseline else BLUE for row in shown]
        bars = axes.barh([row["name"] for row in shown], speeds, xerr=spreads, color=colors)
        labels = [f"{row['throughput']:,.1f} {_ratio(row.get('speed_ratio'))}" for row in shown]
        axes.bar_label(bars, labels, padding=6)
        axes.set_xlim(right=1.3 * max(speeds))
        axes.set_xlabel("images/s")
        axes.set_title(mode)
        axes.spines[["top", "right"]].set_visible(False)
    save_figure(figure, path)


def _mode(row: dict) -> str:
    return f"{row['mode']}, compiled" if row["compiled"] else row["mode"]


def _ratio(value: float | None) -> str:
    return f"{value:.2f}x" if value else ""
