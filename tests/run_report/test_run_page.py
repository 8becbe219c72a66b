"""The report of runs shows the content of the run folders, in a real browser."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from browser import console_messages, lowest_contrast, open_browser, set_theme
from evaluation.made_up import made_up
from PIL import Image
from selenium.webdriver.common.by import By
from training.small_run import run_small

from dat_train.errors import UserError
from dat_train.evaluation.classification_files import write_report
from dat_train.run_report.charts import Line, line_chart, ticks
from dat_train.run_report.run_page import write_run_page
from dat_train.run_report.run_record import open_runs
from dat_train.viewer.offsets import OffsetMonitor

CLASSES = ["cat", "<dog>", "cow"]
LABELS, PREDICTED = [0, 0, 1, 1, 2, 2], [0, 1, 1, 0, 2, 0]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two real runs; the first was stopped, resumed and evaluated on image files, one of which is missing."""
    import torch

    home = tmp_path_factory.mktemp("runs")
    watch = OffsetMonitor(2, lambda: [torch.zeros(2, 3, 32, 32)])
    run_small(home / "a", max_steps=4, offsets=watch)
    run_small(home / "a", offsets=watch)
    run_small(home / "b", epochs=2, decay=0)
    for name, lr in (("a", 0.1), ("b", 0.2)):
        config = {"name": name, "optim": {"lr": lr, "betas": [0.9, 0.999]}, "compile": False, "init": None}
        (home / name / "config.yaml").write_text(yaml.safe_dump(config))
    samples = []
    for place, label in enumerate(LABELS):
        path = home / f"{place}.png"
        Image.new("RGB", (8, 8), (40 * place, 0, 0)).save(path)
        samples.append((str(path), label))
    write_report(made_up(LABELS, PREDICTED), CLASSES, samples, home / "a" / "eval", {"checkpoint": "best.pt"})
    (home / "1.png").unlink()
    with (home / "a" / "log.txt").open("a") as log:
        for free in (1, 22):
            log.write(f"2026-01-02 03:04:0{free % 9}  warning: {free} MB left on </td> the disk\n")
    return home


@pytest.fixture(scope="module")
def chrome(folders, tmp_path_factory):
    with open_browser(tmp_path_factory.mktemp("profile")) as chrome:
        page = write_run_page(open_runs([str(folders / "a"), str(folders / "b")]), folders / "report.html")
        chrome.get(page.as_uri())
        yield chrome
        assert console_messages(chrome) == []


def section(chrome, title):
    return chrome.find_element(By.XPATH, f"//section[h2='{title}']")


def cells(chrome, title, head):
    """The texts of a table's row."""
    rows = section(chrome, title).find_elements(By.XPATH, f".//tr[th='{head}']/td")
    return [cell.text for cell in rows]


def test_results_equal_those_in_the_run_folders(folders, chrome):
    a, b = open_runs([str(folders / "a"), str(folders / "b")])
    best = [max(row.get("ema_val_top1", row["val_top1"]) for row in run.validations) for run in (a, b)]
    assert cells(chrome, "Results", "best top-1, %") == [f"{top1:.2f}" for top1 in best]
    assert cells(chrome, "Results", "epochs done") == ["3", "2"]
    assert cells(chrome, "Results", "images per second, median")[0] == f"{np.median(a.throughput[:, 1]):,.0f}"
    assert len(a.throughput) and a.throughput[-1, 0] == 3


def test_different_settings_are_marked_and_listed_first(chrome):
    marked = section(chrome, "Settings").find_elements(By.CSS_SELECTOR, "div > table")[0]
    assert [row.text.split() for row in marked.find_elements(By.CSS_SELECTOR, "tr.differs")] == [
        ["name", "a", "b"],
        ["optim.lr", "0.1", "0.2"],
    ]
    section(chrome, "Settings").find_element(By.TAG_NAME, "summary").click()
    assert cells(chrome, "Settings", "optim.betas") == ["[0.9,0.999]"] * 2
    assert cells(chrome, "Settings", "compile") == ["false"] * 2 and cells(chrome, "Settings", "init") == ["null"] * 2


def test_curves_share_a_chart_and_can_be_hidden(chrome):
    charts = section(chrome, "Curves").find_elements(By.TAG_NAME, "figure")
    titles = [chart.find_element(By.TAG_NAME, "figcaption").text for chart in charts]
    assert titles == [
        "training loss, smoothed",
        "validation top-1, %",
        "validation loss",
        "learning rate",
        "throughput, images/s",
        "sampling points outside the map, %",
    ]
    shown = "return [...document.querySelectorAll('.run-1')].filter(e => e.getBoundingClientRect().width > 0).length"
    assert chrome.execute_script(shown) == 5  # offsets of b were not measured
    box = chrome.find_element(By.CSS_SELECTOR, "#runs input[value='1']")
    box.click()
    assert chrome.execute_script(shown) == 0
    box.click()
    assert chrome.execute_script(shown) == 5


def test_classes_confusions_and_mistakes_equal_those_of_the_evaluation(chrome):
    assert [cells(chrome, "Classes", name)[:2] for name in CLASSES] == [["2", "50.0 %"]] * 3
    matrix = section(chrome, "Confusions").find_element(By.CSS_SELECTOR, "table.confusion")
    lines = matrix.find_elements(By.TAG_NAME, "tr")
    rows = [[cell.text for cell in line.find_elements(By.TAG_NAME, "td")] for line in lines]
    assert rows[1:] == [["1", "1", ""], ["1", "1", ""], ["1", "", "1"]]
    tiles = section(chrome, "Most confident mistakes").find_elements(By.TAG_NAME, "figure")
    assert [tile.text.partition(" (")[0] for tile in tiles] == ["<dog>, predicted cat", "cow, predicted cat"]
    widths = chrome.execute_script("return [...document.querySelectorAll('.tiles img')].map(e => e.naturalWidth)")
    assert widths == [8, 8]


def test_a_run_without_evaluation_shows_the_command(folders, chrome):
    assert f"dat-eval ckpt={folders / 'b'}/checkpoints/best.pt" in section(chrome, "Evaluation").text


def test_faults_are_listed(chrome):
    assert cells(chrome, "Faults", "restarts") == ["1", "0"]
    warnings, nothing = cells(chrome, "Faults", "warnings in the log")
    assert "resumed at step 4 on" in warnings and "1 MB left on </td> the disk (and 1 similar)" in warnings
    assert nothing == "none"


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_is_readable(chrome, theme):
    set_theme(chrome, theme)
    ratio, text = lowest_contrast(chrome)
    assert ratio >= 4.5, f"{text!r} has a contrast of {ratio:.2f}"
    assert chrome.execute_script("return performance.getEntriesByType('resource').length") == 0


def test_all_mistakes_are_in_a_csv_file(folders):
    with (folders / "a/eval/wrong.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["true"], row["predicted"]) for row in rows] == [("cat", "<dog>"), ("<dog>", "cat"), ("cow", "cat")]


def test_of_many_classes_the_worst_are_shown(folders, tmp_path):
    names = [f"class {i}" for i in range(60)]
    labels = list(range(60)) * 2
    predicted = [*range(60), *[7] * 60]  # every second image of a class is taken for class 7
    run = tmp_path / "many"
    (run / "eval").mkdir(parents=True)
    (run / "config.yaml").write_text("name: many\n")
    write_report(made_up(labels, predicted), names, [("gone", label) for label in labels], run / "eval")
    text = write_run_page(open_runs([str(run)]), tmp_path / "many.html").read_text()
    assert "The 20 worst of 60." in text and '<table class="confusion">' not in text
    assert "<td><bdi>class 0</bdi></td><td><bdi>class 7</bdi></td><td class=number>1</td>" in text
    assert "No image can be shown." in text and "No step is done yet." in text


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(UserError, match="is not a run folder"):
        open_runs([str(tmp_path)])
    with pytest.raises(UserError, match="does not exist"):
        open_runs([str(tmp_path / "none")])


def test_runs_of_equal_name_are_shown_by_path(tmp_path):
    for folder in ("x/run", "y/run"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "config.yaml").write_text("{}")
    names = [run.name for run in open_runs([str(tmp_path / "x/run"), str(tmp_path / "y/run")])]
    assert names == [str(tmp_path / "x/run"), str(tmp_path / "y/run")]


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0, 10, [0, 2, 4, 6, 8, 10]), (-0.02, 1.04, [0, 0.5, 1]), (98.6, 99.4, [98.6, 98.8, 99, 99.2, 99.4])],
)
def test_ticks_are_round(low, high, expected):
    assert ticks(low, high) == pytest.approx(expected)


def test_a_chart_has_gaps_and_dots():
    chart = line_chart("x", [Line(0, np.arange(5.0), np.array([1, np.nan, 3, 4, 5]))], ["a"])
    assert chart.count("<circle") == 1 and chart.count("<polyline") == 1
    assert line_chart("x", [Line(0, np.arange(2.0), np.full(2, np.nan))], ["a"]) == ""


def record(folder, metrics, **files):
    """A run folder from rows of metrics.jsonl and further files."""
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(f"name: {folder.name}\n")
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in metrics))
    for name, text in files.items():
        (folder / name.replace("__", "/")).parent.mkdir(exist_ok=True)
        (folder / name.replace("__", "/").replace("_json", ".json").replace("_csv", ".csv")).write_text(text)
    return str(folder)


def test_runs_of_different_tasks_are_compared_by_their_scores(tmp_path):
    step = {"step": 1, "epoch": 1.0, "loss": 0.5, "lr": 0.1}
    rows = "index,name,pixels,iou,accuracy\n0,sky,12,81.5000,90\n1,sea,0,,\n"
    metrics = [step, {"epoch": 1.0, "val_miou": 41.25, "val_pixel_accuracy": 80.0}]
    segmentation = record(tmp_path / "seg", metrics, eval__result_json='{"miou": 41.25}', eval__perclass_csv="")
    (tmp_path / "seg/eval/per_class.csv").write_text(rows)
    metrics = [step, {"epoch": 1.0, "val_loss": 1.5, "val_top1": 70.0, "ema_val_loss": 1.4, "ema_val_top1": 71.0}]
    classification = record(tmp_path / "cls", metrics, summary_json='{"best_top1": 72.5, "best_epoch": 1}')
    metrics = [step, {"epoch": 1.0, "val_box_ap": 31.23, "val_box_ap50": 50.0}]
    detection = record(tmp_path / "det", metrics, summary_json='{"score": "box_ap", "best_box_ap": 32.5}')
    runs = open_runs([segmentation, classification, detection])
    assert [run.score for run in runs] == ["miou", "top1", "box_ap"]
    text = write_run_page(runs, tmp_path / "page.html").read_text()
    for heading, values in {
        "best mIoU, %": ["41.25", "", ""],
        "best top-1, %": ["", "72.50", ""],
        "best box AP, %": ["", "", "32.50"],
        "last box AP50, %": ["", "", "50.00"],
        "last top-1, %": ["", "71.00", ""],
        "last validation loss": ["", "1.4000", ""],
    }.items():
        cells = "".join(f'<td class="number">{value}</td>' for value in values)
        assert f'<th scope="row">{heading}</th>{cells}' in text, heading
    assert "validation mIoU, %</figcaption>" in text and "validation box AP, %</figcaption>" in text
    assert '<th scope="row"><bdi>sky</bdi></th><td class="number">12</td>' in text and "81.5 %" in text
    assert "Not finished: seg." in text


def test_damaged_files_count_as_missing(tmp_path):
    folder = record(tmp_path / "odd", [{"epoch": 1.0, "val_top1": 70.0}], summary_json="{dam", eval__result_json="[")
    (run,) = open_runs([folder])
    assert run.summary == run.evaluation == {} and run.score == "top1"


def test_a_run_folder_of_version_0_1_is_read():
    (run,) = open_runs([str(Path(__file__).parents[1] / "compatibility" / "run-0.1")])
    assert run.score == "top1" and len(run.steps) and run.validations and run.starts


def test_awkward_class_names_are_printable_and_isolated(tmp_path):
    names = ["a\nb", "قطة \u202eevil", "👩‍👩‍👧", "bytes \udcff", "<b>"]
    folder = Path(record(tmp_path / "odd", []))
    write_report(made_up([0, 1, 2, 3, 4], [1, 2, 3, 4, 0]), names, [("gone", 0)] * 5, folder / "eval")
    text = write_run_page(open_runs([str(folder)]), tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<bdi>a b</bdi>" in text and "<bdi>bytes \\xff</bdi>" in text and "\u202e" not in text
    assert "<bdi>👩‍👩‍👧</bdi>" in text and "<b>" not in text
