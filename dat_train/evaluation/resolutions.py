"""The same model at several resolutions, side by side."""

import csv
from collections.abc import Sequence
from pathlib import Path

COLUMNS = ("img_size", "top1", "top5", "loss", "ece", "images_per_second")


def write_resolutions(results: Sequence[dict], path: Path) -> None:
    """A CSV file with a row for each resolution's result.json."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows([result[name] for name in COLUMNS] for result in results)


def resolutions_text(results: Sequence[dict]) -> str:
    """The same for the terminal."""
    lines = [f"{'pixels':>6}  {'top-1':>8}  {'top-5':>8}  {'loss':>8}  {'images/s':>9}"]
    for result in results:
        loss = "-" if result["loss"] is None else f"{result['loss']:.4f}"
        lines.append(
            f"{result['img_size']:>6}  {result['top1']:>6.2f} %  {result['top5']:>6.2f} %  {loss:>8}  "
            f"{result['images_per_second']:>9,.0f}"
        )
    return "\n".join(lines)
