"""Changed data and settings of a run: refused with the difference, or accepted by a setting."""

import numpy as np
import pytest
from commands.running import run_here
from PIL import Image
from troubleshooting import entry

MODEL = "++model.args={dims:[8,16,16,24],depths:[1,1,1,1],num_heads:[1,2,2,3],groups:[1,1,2,1]}"
SETTINGS = [
    *("model=dat_nano", MODEL, "data=folder", "data.root=photos", "data.val_fraction=0.3", "data.workers=0"),
    *("img_size=32", "batch_size=4", "micro_batch_size=4", "epochs=4", "schedule.warmup_epochs=0", "name=run"),
    *("optim.lr=1e-3", "eval.batch_size=8"),
]


def photo(path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(len(str(path))).integers(0, 255, (40, 40, 3), np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.mark.long
def test_changed_data_and_settings_are_refused_or_accepted_by_a_setting(tmp_path):
    for name in ("cat", "dog"):
        for number in range(10):
            photo(tmp_path / "photos" / name / f"{number}.png")
    first = run_here("dat-train", *SETTINGS, "max_steps=2", cwd=tmp_path)
    assert first.returncode == 0, first.stderr

    for number in range(10, 14):
        photo(tmp_path / "photos" / "dog" / f"{number}.png")
    refused = run_here("dat-train", *SETTINGS, "max_steps=4", cwd=tmp_path)
    assert refused.returncode == 2 and len(refused.stderr.splitlines()) == 1, refused.stderr
    assert "was started with other data: " in refused.stderr and "dog" in refused.stderr
    assert entry("changed-data").fullmatch(refused.stderr.strip())

    other = run_here("dat-train", *SETTINGS, "max_steps=4", "optim.lr=2e-3", cwd=tmp_path)
    assert other.returncode == 2 and "optim.lr=0.001 is 0.002 now" in other.stderr
    assert "resume_changed=true" in other.stderr

    accepted = run_here("dat-train", *SETTINGS, "max_steps=4", "optim.lr=2e-3", "resume_changed=true", cwd=tmp_path)
    assert accepted.returncode == 0, accepted.stderr
    log = (tmp_path / "runs" / "run" / "log.txt").read_text()
    assert "the run continues with changed settings: optim.lr=0.001 is 0.002 now" in log
    assert "the run continues with changed data: " in log and len(entry("resumed-changed").findall(log)) == 2
    assert run_here("dat-train", *SETTINGS, "max_steps=5", "optim.lr=2e-3", cwd=tmp_path).returncode == 0
