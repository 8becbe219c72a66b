"""Every example runs within seconds and reaches the stated result."""

import importlib.util
import re
import runpy
import sys
from pathlib import Path

import pytest
from commands.fitted_checkpoint import write_fitted_checkpoint
from PIL import Image

EXAMPLES = Path(__file__).parents[1] / "examples"
TESTED = {
    "app.py",
    "features_for_a_detector.py",
    "features_for_segmentation.py",
    "finetune_plain_pytorch.py",
    "one_attention_layer_in_a_cnn.py",
    "own_dataset.py",
}


@pytest.fixture
def run_example(monkeypatch, capsys):
    """Run an example as a script and return what it prints."""

    def run(name: str, *arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        return capsys.readouterr().out

    return run


def percent(text: str) -> float:
    return float(re.search(r"([\d.]+) ?%", text)[1])


def test_every_example_is_tested():
    assert {path.name for path in EXAMPLES.glob("*.py")} == TESTED


def test_fine_tuning_in_plain_pytorch(run_example):
    assert percent(run_example("finetune_plain_pytorch.py")) > 65


def test_a_custom_data_set(run_example):
    assert percent(run_example("own_dataset.py")) > 65


def test_one_attention_layer_in_a_cnn(run_example):
    assert percent(run_example("one_attention_layer_in_a_cnn.py")) > 65


def test_features_for_a_detector(run_example):
    text = run_example("features_for_a_detector.py")
    losses = [float(loss) for loss in re.findall(r"loss ([\d.]+)", text)]
    assert losses[-1] < losses[0]
    assert re.findall(r"stride (\d+)", text) == ["2", "4", "8", "16"]


def test_features_for_segmentation(run_example):
    text = run_example("features_for_segmentation.py")
    losses = [float(loss) for loss in re.findall(r"loss ([\d.]+)", text)]
    assert losses[-1] < losses[0] / 2
    assert re.findall(r"stride (\d+)", text) == ["1", "2", "4", "8", "16"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_fitted_checkpoint(tmp_path_factory.mktemp("runs") / "digits")


def app():
    spec = importlib.util.spec_from_file_location("app", EXAMPLES / "app.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_web_page_predicts_and_draws_points(checkpoint):
    image = Image.open(next((checkpoint.parents[1] / "digits/val/0").glob("*.png")))
    shares, points = app().predictor(str(checkpoint))(image)
    assert len(shares) == 5 and max(shares, key=shares.get) in "0123456789" and sum(shares.values()) <= 1.0001
    assert min(Image.open(points).size) > 100


@pytest.mark.demo
def test_the_web_page_is_served_and_answers(checkpoint):
    """With Gradio and its client."""
    from gradio_client import Client, handle_file

    page = app().page(str(checkpoint))
    _, url, _ = page.launch(prevent_thread_lock=True, quiet=True)
    try:
        path = next((checkpoint.parents[1] / "digits/val/0").glob("*.png"))
        label, points = Client(url, verbose=False).predict(handle_file(str(path)), api_name="/predict")
    finally:
        page.close()
    assert len(label["confidences"]) == 5 and label["label"] == label["confidences"][0]["label"]
    assert min(Image.open(points).size) > 100
