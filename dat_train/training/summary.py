"""Summary of a finished run: summary.json, and the last lines on the terminal."""

import shlex

from dat_train.atomic import write_json
from dat_train.run_report.curves import write_curves
from dat_train.runtime.terminal import duration
from dat_train.training.run_folder import RunFolder, is_validation, read_rows
from dat_train.training.state import TrainState
from dat_train.training.task import Score


def summarize(folder: RunFolder, state: TrainState, score: Score, batch_size: int, metadata: dict) -> dict:
    """Write summary.json and curves.png of a finished run and return the summary.

    Values of the last validation are those of the averaged weights if the run has any. Times are sums over all starts
    of the run, including killed ones.

    Args:
        score: of the run's task.
        batch_size: samples per step, for the throughput.
        metadata: further entries.
    """
    last = [row for row in read_rows(folder.metrics) if is_validation(row)][-1]
    prefix = "ema_val_" if f"ema_val_{score.name}" in last else "val_"
    summary = {
        "score": score.name,
        f"best_{score.name}": state.best[score.name],
        "best_epoch": state.best["epoch"],
        "best_step": state.best["step"],
        **{f"final_{key.removeprefix(prefix)}": value for key, value in last.items() if key.startswith(prefix)},
        "steps": state.step,
        **_times(folder, batch_size),
        "skipped": state.counters["skipped"],
        "unreadable": state.counters["unreadable"],
    } | metadata
    write_json(folder.summary, summary)
    write_curves(folder.metrics, folder.curves, score.name)
    return summary


def _times(folder: RunFolder, batch_size: int) -> dict[str, float | None]:
    """Throughput and duration from timing.jsonl."""
    seconds, steps, training_seconds, elapsed = 0.0, 0, 0.0, 0.0
    for row in read_rows(folder.timing):
        if "started" in row:
            seconds += elapsed
        elapsed = row["elapsed"]
        steps += row.get("steps", 0)
        training_seconds += row.get("seconds", 0.0)
    return {
        "images_per_second": round(steps * batch_size / training_seconds, 2) if training_seconds else None,
        "seconds": round(seconds + elapsed, 2),
    }


def result_text(summary: dict, score: Score, folder: RunFolder) -> str:
    """Format the last lines of a run."""
    speed = summary["images_per_second"]
    return "\n".join(
        [
            f"best {score.text(summary[f'best_{score.name}'])} (epoch {summary['best_epoch']}), "
            f"last {score.text(summary[f'final_{score.name}'])}, in {duration(summary['seconds'])}"
            + (f" at {speed:,.0f} images/s" if speed else ""),
            f"all files are in {folder.path}; to evaluate the best model:",
            f"  dat-eval {shlex.quote(f'ckpt={folder.best}')}",
        ]
    )
