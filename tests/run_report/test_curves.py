"""Curves of runs of any length and state."""

import json
import resource
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from dat_train.run_report import curves
from dat_train.run_report.curves import POINTS, smooth, thin_out, write_curves


def step_row(step, loss, steps_per_epoch=100):
    return {"step": step, "epoch": step / steps_per_epoch, "loss": loss, "lr": 1e-3, "grad_norm": 1.0}


def validation_row(epoch, top1, **more):
    return {"step": epoch * 100, "epoch": epoch, "val_loss": 1.0, "val_top1": top1, "val_top5": 90.0} | more


def write_rows(path, rows, end=""):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + end)
    return path


def test_thinning_out_keeps_every_peak():
    x = np.arange(1_000_003.0)
    y = np.random.default_rng(0).standard_normal(len(x))
    y[123_457], y[999_999], y[-1] = 50, -60, 70
    thin_x, thin_y = thin_out(x, y)
    assert len(thin_x) <= 2 * POINTS + len(x) // POINTS and (np.diff(thin_x) > 0).all()
    assert {50.0, -60.0, 70.0} <= set(thin_y.tolist())
    assert (y[thin_x.astype(int)] == thin_y).all()


def test_thinning_out_a_smooth_line_keeps_its_end_points():
    x = np.arange(1_000_003.0)
    thin_x, thin_y = thin_out(x, x**2, extremes=False)
    assert len(thin_x) <= POINTS + 1 and (thin_x[0], thin_x[-1]) == (0, 1_000_002) and (thin_y == thin_x**2).all()


def test_a_short_line_is_unchanged():
    x = np.arange(float(POINTS))
    for extremes in (True, False):
        assert thin_out(x, x, extremes)[0] is x


def test_smoothing_is_the_mean_over_a_window_that_shrinks_at_the_ends():
    line = np.arange(1000.0)
    assert smooth(line)[:985] == pytest.approx(line[:985])  # symmetric windows keep a straight line
    assert smooth(line)[-1] == pytest.approx(line[-16:].mean())  # one-sided window at the end
    values = np.random.default_rng(0).standard_normal(1000)
    assert smooth(values)[500] == pytest.approx(values[485:516].mean())  # 3 % of the run
    assert smooth(values)[0] == values[0]
    assert smooth(values).std() < 0.3 and len(smooth(values[:1])) == 1


def test_a_partly_written_row_is_ignored(tmp_path):
    rows = [step_row(1, 2.0), validation_row(1, 50.0), step_row(2, 1.5)]
    steps, validations = curves.read_metrics(write_rows(tmp_path / "metrics.jsonl", rows, end='{"step": 3, "epo'))
    assert steps.tolist() == [[0.01, 2.0, 1e-3], [0.02, 1.5, 1e-3]] and validations == [rows[1]]


def drawn(tmp_path, monkeypatch, rows):
    """Axes of the figure drawn from rows."""
    figures = []
    import matplotlib.figure

    class Figure(matplotlib.figure.Figure):
        def __init__(self, *arguments, **keywords):
            super().__init__(*arguments, **keywords)
            figures.append(self)

    monkeypatch.setattr(matplotlib.figure, "Figure", Figure)
    assert write_curves(write_rows(tmp_path / "metrics.jsonl", rows), tmp_path / "curves.png")
    return figures[0].axes


def test_skipped_steps_are_left_out_of_the_line(tmp_path, monkeypatch):
    rows = [step_row(i, None if i in (1, 30, 31, 60) else 3.0 - i / 60) for i in range(1, 61)]
    loss, accuracy, rate = drawn(tmp_path, monkeypatch, rows)
    for line in loss.get_lines():
        assert len(line.get_xdata()) == 56 and np.isfinite(line.get_ydata()).all()
    assert [text.get_text() for text in accuracy.texts] == ["no validation yet"]
    assert len(rate.get_lines()[0].get_xdata()) == 60


def test_a_run_without_finite_losses_is_drawn(tmp_path, monkeypatch):
    loss, _, _ = drawn(tmp_path, monkeypatch, [step_row(1, None), step_row(2, None)])
    assert not loss.get_lines()


def test_averaged_weights_have_separate_lines_and_the_best_marker(tmp_path, monkeypatch):
    rows = [validation_row(i, 50.0 + i, ema_val_top1=top1, ema_val_loss=1.0) for i, top1 in ((1, 60.0), (2, 70.0))]
    rows.append(validation_row(3, 80.0, ema_val_top1=65.0, ema_val_loss=None))
    loss, accuracy, _ = drawn(tmp_path, monkeypatch, [step_row(1, 2.0), *rows])
    labels = [line.get_label() for line in accuracy.get_lines()]
    assert labels[:2] == ["model", "averaged weights (EMA)"] and "best: 70.00" in labels
    averaged = next(line for line in loss.get_lines() if line.get_label() == "validation, EMA")
    assert averaged.get_xdata().tolist() == [1, 2]


def test_a_single_peak_does_not_determine_the_scale(tmp_path, monkeypatch):
    loss, _, _ = drawn(tmp_path, monkeypatch, [step_row(i, 1e6 if i == 500 else 2.0) for i in range(1, 1001)])
    assert loss.get_ylim()[1] < 10


def test_no_picture_is_written_without_rows(tmp_path):
    assert not write_curves(write_rows(tmp_path / "metrics.jsonl", []), tmp_path / "curves.png")
    assert not write_curves(write_rows(tmp_path / "half.jsonl", [], end='{"st'), tmp_path / "curves.png")
    assert not (tmp_path / "curves.png").exists()


def test_a_picture_is_complete_or_absent(tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    metrics, picture = write_rows(tmp_path / "metrics.jsonl", [step_row(1, 2.0)]), tmp_path / "curves.png"
    assert write_curves(metrics, picture)
    with Image.open(picture) as image:
        image.load()
        assert image.format == "PNG" and image.width > 1000
    whole = picture.read_bytes()

    def full_disk(_, file, **__):
        file.write(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(Figure, "savefig", full_disk)
    with pytest.raises(OSError, match="no space"):
        write_curves(metrics, picture)
    assert picture.read_bytes() == whole


def test_a_million_steps_are_read_in_seconds_with_little_memory(tmp_path):
    metrics = tmp_path / "metrics.jsonl"
    with metrics.open("w") as file:
        for start in range(0, 1_000_000, 1000):
            lines = (
                f'{{"step": {i}, "epoch": {i / 1250}, "loss": {2 + i % 7 / 10}, "lr": 0.001, "grad_norm": 1.0, '
                '"skipped": 0, "unreadable": 0}\n'
                for i in range(start + 1, start + 1001)
            )
            file.writelines(lines)
    code = (
        "import sys, resource, pathlib; from dat_train.run_report.curves import read_metrics;"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss;"
        "steps, _ = read_metrics(pathlib.Path(sys.argv[1])); assert steps.shape == (1_000_000, 3);"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    start = time.monotonic()
    result = subprocess.run([sys.executable, "-c", code, str(metrics)], capture_output=True, text=True, check=True)
    seconds = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before
    assert seconds < 15 and time.monotonic() - start < 100  # about 4 s of computing on an idle machine
    assert int(result.stdout) < 600_000  # KB; the rows themselves would be more than a gigabyte
