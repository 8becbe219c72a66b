"""Table of runs with several seeds."""

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "scripts" / "comparison_table.py"


def table(*arguments):
    return subprocess.run([sys.executable, SCRIPT, *arguments], capture_output=True, text=True)


def test_a_row_has_mean_and_standard_deviation_over_the_seeds(tmp_path):
    for seed, top1 in enumerate((90.0, 92.0, 94.0)):
        folder = tmp_path / f"dat-seed_{seed}"
        folder.mkdir()
        summary = {"best_top1": top1, "final_top1": top1 - 1, "final_loss": 0.5, "seconds": 10 + seed}
        (folder / "summary.json").write_text(json.dumps(summary | {"parameters": 1000, "macs": 2_500_000}))
    result = table(tmp_path, "dat")
    assert result.stdout.splitlines()[-1] == (
        "| dat | 1,000 | 2.50 | 3 | 92.00 ± 2.00 | 91.00 ± 2.00 | 0.5000 ± 0.0000 | 11 |"
    )
    assert "no finished run swin-seed_" in table(tmp_path, "swin").stderr
