#!/usr/bin/env python3
"""Table of a sweep over ablations: prints Markdown and writes a CSV file into the folder of the runs.

python scripts/ablation_table.py runs                runs ablations-ablation_NAME... of experiment=ablations
python scripts/ablation_table.py runs ablation_bias  runs of experiment=ablation_bias
"""

import csv
import json
import re
import statistics
import sys
from pathlib import Path

from dat_train.cli.conf import conf_dir, first_comment

HEADER = ("ablation", "what", "runs", "parameters", "macs", "best_top1", "lowest", "highest", "final_loss")


def rows(runs_dir: Path, name: str) -> list[tuple]:
    """One row with the columns of HEADER for each ablation; runs with different seeds share a row.

    Raises:
        SystemExit: there is no finished run.
    """
    found: dict[str, list[dict]] = {}
    for path in sorted(runs_dir.glob(f"{name}-ablation_*/summary.json")):
        if ".old-" in path.parent.name:  # renamed by resume=never
            continue
        ablation = re.match(r"ablation_([^-]+)", path.parent.name.removeprefix(f"{name}-"))[1]
        found.setdefault(ablation, []).append(json.loads(path.read_text()))
    if not found:
        command = f"dat-train --multirun experiment={name}"
        sys.exit(f"error: {runs_dir} has no finished run {name}-ablation_...; type {command}")
    return [_row(ablation, found[ablation]) for ablation in sorted(found, key=_place)]


def _place(ablation: str) -> tuple[bool, str]:
    """Sort key: the unchanged model comes first."""
    return ablation != "base", ablation


def _row(ablation: str, summaries: list[dict]) -> tuple:
    top1 = [summary["best_top1"] for summary in summaries]
    loss = [summary["final_loss"] for summary in summaries]
    what = first_comment(conf_dir() / "ablation" / f"{ablation}.yaml")
    sizes = summaries[0]["parameters"], summaries[0]["macs"]
    return (ablation, what, len(top1), *sizes, *(round(v, 2) for v in (statistics.mean(top1), min(top1), max(top1))),
            round(statistics.mean(loss), 4))  # fmt: skip


def markdown(table: list[tuple]) -> str:
    """The table in Markdown."""
    lines = ["| `ablation=` | what | parameters | M MACs | top-1, % | of single runs | loss |", "|" + " --- |" * 7]
    for ablation, what, _, parameters, macs, top1, lowest, highest, loss in table:
        numbers = f"{parameters:,} | {macs / 1e6:.2f} | {top1:.2f} | {lowest:.2f} to {highest:.2f} | {loss:.4f}"
        lines.append(f"| `{ablation}` | {what} | {numbers} |")
    return "\n".join(lines)


def main() -> None:
    if len(sys.argv) not in (2, 3) or sys.argv[1].startswith("-"):
        sys.exit(__doc__)
    runs_dir, name = Path(sys.argv[1]), (sys.argv[2:] or ["ablations"])[0]
    table = rows(runs_dir, name)
    with (runs_dir / f"{name}.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(HEADER)
        writer.writerows(table)
    print(markdown(table))
    print(f"\nin {runs_dir / f'{name}.csv'}")


if __name__ == "__main__":
    main()
