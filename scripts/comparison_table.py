#!/usr/bin/env python3
"""Table of runs with several seeds, one row for each name: size, accuracy with standard deviation, time.

python scripts/comparison_table.py runs comparison_dat comparison_swin    runs NAME-seed_0, NAME-seed_1, ...
"""

import json
import statistics
import sys
from pathlib import Path

HEADER = "| run | parameters | M MACs | seeds | best top-1, % | last top-1, % | last loss | seconds |"


def summaries(runs_dir: Path, name: str) -> list[dict]:
    """summary.json of all finished runs of a sweep over seeds."""
    paths = sorted(runs_dir.glob(f"{name}-seed_*/summary.json"))
    found = [json.loads(path.read_text()) for path in paths if ".old-" not in path.parent.name]
    if not found:
        command = f"dat-train --multirun experiment={name}"
        sys.exit(f"error: {runs_dir} has no finished run {name}-seed_...; type {command}")
    return found


def row(name: str, found: list[dict]) -> str:
    """Row of the table: means and sample standard deviations over the seeds."""
    best, last, loss = ([summary[key] for summary in found] for key in ("best_top1", "final_top1", "final_loss"))
    numbers = [f"{found[0]['parameters']:,}", f"{found[0]['macs'] / 1e6:.2f}", str(len(found))]
    numbers += [_spread(best, 2), _spread(last, 2), _spread(loss, 4)]
    numbers += [f"{statistics.mean(summary['seconds'] for summary in found):.0f}"]
    return f"| {' | '.join([name, *numbers])} |"


def _spread(values: list[float], digits: int) -> str:
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.{digits}f} ± {deviation:.{digits}f}"


def main() -> None:
    if len(sys.argv) < 3 or sys.argv[1].startswith("-"):
        sys.exit(__doc__)
    runs_dir, names = Path(sys.argv[1]), sys.argv[2:]
    rows = [row(name, summaries(runs_dir, name)) for name in names]
    print("\n".join([HEADER, "|" + " --- |" * 8, *rows]))


if __name__ == "__main__":
    main()
