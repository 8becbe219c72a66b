"""dat-bench from the command line to its files."""

import json

from commands.running import run


def test_models_beside_a_baseline(tmp_path):
    arguments = ["model=dat_nano", "baseline=resnet18", "batch_size=2", "repeats=2", "warmup=1", "threads=1"]
    result = run("dat-bench", *arguments, "json=out/bench.json", "chart=out/bench.png", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "fp32, batch 2" in result.stdout and "11.69 M" in result.stdout  # resnet18's parameters
    read = json.loads((tmp_path / "out" / "bench.json").read_text())
    names = [(row["name"], row["mode"]) for row in read["results"]]
    assert names == [(name, mode) for mode in ("inference", "training") for name in ("resnet18", "dat_nano")]
    assert read["results"][1]["speed_ratio"] > 0 and read["settings"]["batch_size"] == 2
    assert (tmp_path / "out" / "bench.png").read_bytes().startswith(b"\x89PNG")


def test_attention_alone(tmp_path):
    result = run("dat-bench", "attention", "sizes=[7]", "batch_size=1", "repeats=1", "warmup=0", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "plain 7x7" in result.stdout and "auto 7x7" in result.stdout


def test_mistakes_are_one_line(tmp_path):
    wrong = run("dat-bench", "pictures", cwd=tmp_path)
    assert wrong.returncode == 2 and "must be models or attention" in wrong.stderr
