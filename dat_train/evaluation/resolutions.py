"""Table of one model's results at several resolutions."""

import csv
import io
from collections.abc import Sequence

COLUMNS = ("img_size", "top1", "top5", "loss", "ece", "images_per_second")


def resolutions_csv(results: Sequence[dict]) -> str:
    """CSV text with one row for each result.json."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows([result[name] for name in COLUMNS] for result in results)
    return text.getvalue()


def resolutions_text(results: Sequence[dict]) -> str:
    """The table as aligned lines for the terminal."""
    lines = [f"{'pixels':>6}  {'top-1':>8}  {'top-5':>8}  {'loss':>8}  {'images/s':>9}"]
    for result in results:
        loss = "-" if result["loss"] is None else f"{result['loss']:.4f}"
        lines.append(
            f"{result['img_size']:>6}  {result['top1']:>6.2f} %  {result['top5']:>6.2f} %  {loss:>8}  "
            f"{result['images_per_second']:>9,.0f}"
        )
    return "\n".join(lines)
