"""All commands with a multi-label model that was trained on colored images."""

import csv
import io
import json

import pytest
import torch
from commands.in_process import train
from commands.running import run_here
from data.colored_labels import CLASSES, write_colored_labels
from PIL import Image
from troubleshooting import entry

from dat_train.commands.load_trained import open_trained
from dat_train.data.images import read_rgb

MODEL = "++model.args={dims:[8,16,16,24],depths:[1,1,1,1],heads:[1,2,2,3],groups:[1,2,1,3],blocks:[L,D,D,D]}"
SETTINGS = [
    *("task=multilabel", "model=dat_nano", MODEL, "data=csv", "augment=none", "batch_size=12", "micro_batch_size=12"),
    *("epochs=10", "optim.lr=1e-2", "schedule.warmup_epochs=1", "eval.every_epochs=10", "model.drop_path_rate=0"),
]
NAMES = sorted(CLASSES)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("home")
    table = write_colored_labels(folder / "data")
    summary = train(folder / "runs", "run", *SETTINGS, f"data.root={table}")
    assert summary["score"] == "map" and summary["best_map"] > 80
    return folder


def command(home, name, *arguments):
    result = run_here(name, *arguments, cwd=home)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_evaluation_matches_labels_by_name_in_any_form_of_table(home):
    evaluate = ("dat-eval", "ckpt=runs/run", "data.workers=0", "device=cpu")
    text = command(home, *evaluate)
    first = json.loads((home / "runs/run/eval/result.json").read_text())
    assert f"mAP {first['map']:.2f} %" in text and first["images"] == 12
    with (home / "data/labels.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "val"]
    lines = ["blue,image,Red Light,green"]  # another order
    for row in rows:
        has = row["labels"].split(";")
        lines.append(f"{int('blue' in has)},{row['path']},{int('red light' in has)},{int('green' in has)}")
    (home / "data/columns.csv").write_text("\n".join(lines).replace("Red Light", "red light") + "\n")
    command(home, *evaluate, "data.root=data/columns.csv", "output=columns")
    second = json.loads((home / "columns/result.json").read_text())
    assert all(first[name] == second[name] for name in ("map", "f1", "macro_f1", "loss", "images"))
    (home / "data/other.csv").write_text("path,labels\n000.png,blue;violet\n")
    result = run_here(*evaluate, "data.root=data/other.csv", "output=other", cwd=home)
    assert result.returncode == 2 and "has classes that the model does not have: 'violet'" in result.stderr
    command(home, *evaluate, "img_sizes=[32,48]", "output=sizes")
    assert (home / "sizes/resolutions.csv").read_text().startswith("img_size,map,f1,macro_f1,loss,images_per_second")


def test_predictions_are_the_classes_above_the_threshold(home):
    Image.new("RGB", (32, 32)).save(home / "data/black.png")
    paths = ["data/000.png", "data/black.png", "data/005.png"]
    predict = ("dat-predict", "ckpt=runs/run", *paths, "device=cpu")
    trained = open_trained(home / "runs/run/checkpoints/best.pt", device="cpu")
    with torch.inference_mode():
        images = torch.stack([trained.transform(read_rgb(home / path)) for path in paths])
        probabilities = trained.model(images).sigmoid()
    for threshold in (0.5, 0.2):
        rows = map(json.loads, command(home, *predict, "format=jsonl", f"threshold={threshold}").splitlines())
        for row, path, expected in zip(rows, paths, probabilities, strict=True):
            found = {label["class"]: label["probability"] for label in row["labels"]}
            own = {name: p.item() for name, p in zip(NAMES, expected, strict=True) if p >= threshold}
            assert row["path"] == path and found == pytest.approx(own, abs=1e-5)
            assert list(found.values()) == sorted(found.values(), reverse=True)
    rows = list(csv.DictReader(io.StringIO(command(home, *predict, "format=csv"))))
    assert rows[0]["path"] == paths[0] and len(rows[0]["labels"].split(";")) == len(rows[0]["probabilities"].split(";"))
    lines = command(home, *predict, "threshold=1").splitlines()
    assert ["data/black.png", "(no", "label)"] in [line.split() for line in lines]


@pytest.mark.long
def test_an_export_keeps_the_labels_and_the_sigmoid(home):
    text = command(home, "dat-export", "ckpt=runs/run", "validate=true", "data.workers=0")
    assert "mAP" in text and "0 of 36" in text
    folder = home / "runs/run/export/safetensors"
    card = (folder / "README.md").read_text()
    assert "sigmoid()" in card and "softmax" not in card and "mean_average_precision" in card
    again = command(home, "dat-predict", f"ckpt={folder}", "data/000.png", "format=jsonl", "device=cpu")
    assert again == command(home, "dat-predict", "ckpt=runs/run", "data/000.png", "format=jsonl", "device=cpu")
    command(home, "dat-export", "ckpt=runs/run", "format=torch_export")
    steps = json.loads((home / "runs/run/export/torch_export/preprocessing.json").read_text())
    assert steps["output"]["probabilities"] == "sigmoid" and steps["classes"] == NAMES


def test_checking_averaging_visualizing_and_reporting(home):
    text = command(home, "dat-check", "task=multilabel", "data=csv", "data.root=data/labels.csv", "workers=0")
    assert "train: 36 images; 3 classes of" in text
    refused = run_here("dat-check", "task=detection", "data=csv", "data.root=data/labels.csv", cwd=home)
    assert refused.returncode == 2
    assert refused.stderr.startswith("error: dat-check has no task=detection: data=... is enough, as in data=masks")
    best = "runs/run/checkpoints/best.pt"
    text = command(
        home, "dat-average", best, "runs/run/checkpoints/last.pt", "kind=greedy", "device=cpu", "data.workers=0"
    )
    assert text.startswith("mAP in percent on csv, 12 images")
    command(home, "dat-eval", "ckpt=runs/run", "data.workers=0", "device=cpu")
    command(home, "dat-report", "runs/run", "output=page.html")
    page = (home / "page.html").read_text()
    assert "mAP" in page and "red light" in page
    text = command(home, "dat-visualize", f"ckpt={best}", "image=data/000.png", "page=false", "pictures=false")
    shares = [float(part.split()[-1].rstrip("%")) for part in text.split(": ")[1].split("   ")[0].split(", ")]
    assert sum(shares) > 150  # all three labels, independent of each other


def test_data_with_one_label_per_image_is_refused(home):
    refused = run_here("dat-train", "task=multilabel", "model=dat_nano", "data=fake", "name=fake", cwd=home)
    assert refused.returncode == 2 and entry("multilabel-table").fullmatch(refused.stderr.strip())
    (home / "data/ages.csv").write_text("path,age\n000.png,40\n")
    table = ("data=csv", "data.root=data/ages.csv")
    refused = run_here("dat-train", "task=multilabel", "model=dat_nano", *table, "name=ages", cwd=home)
    assert refused.returncode == 2 and entry("label-column").fullmatch(refused.stderr.strip())


def test_a_batch_is_drawn_with_all_labels_of_an_image(home):
    settings = [setting for setting in SETTINGS if not setting.startswith("augment")]
    quick = ("img_size=32", "model.img_size=32", "eval.crop_pct=1", "device=cpu", "data.workers=0")
    table = f"data.root={home / 'data/labels.csv'}"
    text = command(home, "dat-train", *settings, table, *quick, "show_batch=true", "name=batch")
    assert "one batch, as the model sees it" in text and (home / "runs/batch/batch.png").exists()
