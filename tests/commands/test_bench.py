"""dat-bench from the command line to its files."""

import json

from commands.running import run, run_here
from data.files import write_image


def test_models_are_compared_with_a_baseline(tmp_path):
    arguments = ["model=dat_nano", "baseline=resnet18", "batch_size=2", "repeats=2", "warmup=1", "threads=1"]
    result = run_here("dat-bench", *arguments, "json=out/bench.json", "chart=out/bench.png", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "fp32, batch 2" in result.stdout and "11.69 M" in result.stdout  # resnet18's parameters
    read = json.loads((tmp_path / "out" / "bench.json").read_text())
    names = [(row["name"], row["mode"]) for row in read["results"]]
    assert names == [(name, mode) for mode in ("inference", "training") for name in ("resnet18", "dat_nano")]
    assert read["results"][1]["speed_ratio"] > 0 and read["settings"]["batch_size"] == 2
    assert (tmp_path / "out" / "bench.png").read_bytes().startswith(b"\x89PNG")


def test_attention_alone(tmp_path):
    result = run_here("dat-bench", "attention", "sizes=[7]", "batch_size=1", "repeats=1", "warmup=0", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "plain 7x7" in result.stdout and "auto 7x7" in result.stdout


def test_errors_of_the_user_are_one_line(tmp_path):
    for argument, message in (
        ("pictures", "must be one of models, segmentation, detection, attention, data"),
        (
            "augment=recipe",
            "dat-bench has no augment=recipe: recipes are those of dat-train; name the augmentation (augm",
        ),
        ("augment=strong", "augment=strong does not exist; augment is one of none, three, deit, light\n"),
    ):
        wrong = run_here("dat-bench", argument, cwd=tmp_path)
        assert wrong.returncode == 2 and message in wrong.stderr and wrong.stderr.count("\n") == 1, wrong.stderr


def test_the_input_pipeline_next_to_timms_loader(tmp_path):
    for label, name in enumerate(("a", "b")):
        for number in range(6):
            path = write_image(tmp_path / "photos" / name / f"{number}.jpg")
            if label and number == 3:
                path.write_bytes(b"no image")
    arguments = ["data=folder", "data.root=photos", "workers=[1]", "images=10", "batch_size=2", "repeats=1"]
    result = run("dat-bench", "data", *arguments, "img_size=32", "json=data.json", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "timm, prefetcher" in result.stdout and "crop and resize" in result.stdout and "cores" in result.stdout
    read = json.loads((tmp_path / "data.json").read_text())
    assert read["images"] == 10 and read["cores"].keys() == {"500", "1000", "2000", "4000"}
    assert [(row["name"], row["workers"]) for row in read["results"]] == [
        ("timm, prefetcher", 1), ("timm", 1), ("dat-train", 1)
    ]  # fmt: skip
    assert all(value > 0 for row in read["results"] for value in row["cpu"] + row["wall"])
    assert list(read["stages"]) == [
        "read", "decode", "crop and resize", "flip and augment", "collate", "normalize and erase"
    ]  # fmt: skip


def test_the_input_pipeline_needs_image_files(tmp_path):
    for arguments, message in (([], "add data=NAME data.root=FOLDER"), (["data=fake"], "has no image files")):
        result = run_here("dat-bench", "data", *arguments, cwd=tmp_path)
        assert result.returncode == 2 and message in result.stderr and result.stderr.count("\n") == 1
