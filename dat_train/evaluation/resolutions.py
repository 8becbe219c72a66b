"""Table of one model's results at several resolutions."""

import csv
import io
from collections.abc import Sequence

COLUMNS = ("img_size", "top1", "top5", "map", "f1", "macro_f1", "loss", "ece", "images_per_second")
PERCENT = {"top1": "top-1", "top5": "top-5", "map": "mAP", "f1": "F1"}  # titles on the terminal


def resolutions_csv(results: Sequence[dict]) -> str:
    """CSV text with one row for each result.json."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    columns = [name for name in COLUMNS if name in results[0]]  # depends on the task
    writer.writerow(columns)
    writer.writerows([result[name] for name in columns] for result in results)
    return text.getvalue()


def resolutions_text(results: Sequence[dict]) -> str:
    """The table as aligned lines for the terminal."""
    metrics = [name for name in PERCENT if name in results[0]]
    titles = "".join(f"{PERCENT[name]:>8}  " for name in metrics)
    lines = [f"{'pixels':>6}  {titles}{'loss':>8}  {'images/s':>9}"]
    for result in results:
        loss = "-" if result["loss"] is None else f"{result['loss']:.4f}"
        values = "".join(f"{'-' if result[name] is None else f'{result[name]:.2f} %':>8}  " for name in metrics)
        lines.append(f"{result['img_size']:>6}  {values}{loss:>8}  {result['images_per_second']:>9,.0f}")
    return "\n".join(lines)
