"""What is said before a run and after it."""

from collections.abc import Sequence

from dat_train.atomic import write_json
from dat_train.run_report.curves import write_curves
from dat_train.runtime.terminal import duration
from dat_train.training.run_folder import RunFolder, read_rows
from dat_train.training.state import TrainState


def table(topics: Sequence[tuple[str, str]]) -> str:
    """(topic, text) pairs as aligned lines."""
    width = max(len(topic) for topic, _ in topics)
    return "\n".join(f"  {topic:<{width}}  {text}" for topic, text in topics)


def memory_text(estimate: dict[str, int]) -> str:
    """Bytes by use, in words; GB are 10^9 bytes."""
    parts = ", ".join(f"{use} {_size(size)}" for use, size in estimate.items())
    return f"about {_size(sum(estimate.values()))} a process: {parts}"


def summarize(folder: RunFolder, state: TrainState, batch_size: int, facts: dict) -> dict:
    """Write summary.json and curves.png of a finished run and return the summary.

    Accuracies are those of the averaged weights where there are any. Times add up over all processes that worked on
    the run one after another, those that were killed included.

    Args:
        facts: further entries.
    """
    validations = [row for row in read_rows(folder.metrics) if "val_loss" in row]
    last = validations[-1]
    kind = "ema_val" if "ema_val_top1" in last else "val"
    seconds, steps, training_seconds, elapsed = 0.0, 0, 0.0, 0.0
    for row in read_rows(folder.timing):
        if "started" in row:
            seconds += elapsed
        elapsed = row["elapsed"]
        steps += row.get("steps", 0)
        training_seconds += row.get("seconds", 0.0)
    summary = {
        "best_top1": state.best["top1"],
        "best_epoch": state.best["epoch"],
        "best_step": state.best["step"],
        "final_top1": last[f"{kind}_top1"],
        "final_top5": last[f"{kind}_top5"],
        "final_loss": last[f"{kind}_loss"],
        "steps": state.step,
        "images_per_second": round(steps * batch_size / training_seconds, 2) if training_seconds else None,
        "seconds": round(seconds + elapsed, 2),
        "skipped": state.counters["skipped"],
        "unreadable": state.counters["unreadable"],
    } | facts
    write_json(folder.summary, summary)
    write_curves(folder.metrics, folder.curves)
    return summary


def result_text(summary: dict, folder: RunFolder) -> str:
    """The last lines of a run."""
    speed = summary["images_per_second"]
    return "\n".join(
        [
            f"best top-1 {summary['best_top1']:.2f} % (epoch {summary['best_epoch']}), "
            f"last {summary['final_top1']:.2f} %, in {duration(summary['seconds'])}"
            + (f" at {speed:,.0f} images/s" if speed else ""),
            f"everything is in {folder.path}; to evaluate the best model:",
            f"  dat-eval ckpt={folder.best}",
        ]
    )


def _size(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"
