"""The interactive page of attention, operated in a real browser."""

import base64
import json
import math
import re

import numpy as np
import pytest
import timm
import torch
from browser import console_messages, lowest_contrast, open_browser, set_theme
from selenium.webdriver import ActionChains, Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import Select

import dat_train.models  # noqa: F401  registers the models
from dat_train.errors import UserError
from dat_train.viewer import attention_page
from dat_train.viewer.attention import inspect_image
from dat_train.viewer.attention_page import reduction_to_fit, write_attention_page

SIZE = 64
MODEL = {"dims": (8, 16, 16, 24), "depths": (1, 2, 4, 2), "num_heads": (1, 2, 4, 3), "groups": (1, 1, 2, 3)}
TITLE = "a <picture> & more.png"


@pytest.fixture(scope="module")
def seen():
    torch.manual_seed(0)
    model = timm.create_model("dat_nano", num_classes=4, img_size=SIZE, **MODEL).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".sampling.proj." in name or ".bias.table" in name:
                parameter.mul_(40)
    return inspect_image(model, torch.randn(3, SIZE, SIZE), (0.5,) * 3, (0.25,) * 3)


def named(seen, classes):
    return [(classes[label], share) for label, share in seen.top(5)]


@pytest.fixture(scope="module")
def chrome(seen, tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    write_attention_page(
        seen, named(seen, ["cat", "</script>", "<!--<script>", "cow"]), TITLE, (20, 20), folder / "attention.html"
    )
    with open_browser(folder / "profile") as chrome:
        chrome.get((folder / "attention.html").as_uri())
        yield chrome


@pytest.fixture(autouse=True)
def afresh(chrome):
    """Reload the page before each test, and check that the console is empty after it."""
    chrome.refresh()
    yield
    assert console_messages(chrome) == []


def drawn(chrome, *attributes):
    """(keys, attributes) attributes of the circles of all keys."""
    script = """
    const circles = [...document.querySelectorAll("#keys circle")];
    return circles.map((circle) => arguments[0].map((name) => +circle.getAttribute(name)))"""
    return np.array(chrome.execute_script(script, attributes))


def radii(chrome):
    return drawn(chrome, "r")[:, 0]


def expected(layer, weights):
    """Expected radii: the area is the weight, the total area a tenth of the image; small weights remain visible."""
    return np.maximum(0.006 * SIZE * 0.6, np.sqrt(weights.reshape(-1) * 0.1 * SIZE * SIZE / math.pi))


def move_to(chrome, pixel, click=False):
    """Move the pointer to a pixel of the model's input."""
    stage = chrome.find_element(By.ID, "stage")
    scale = stage.rect["width"] / SIZE
    chain = ActionChains(chrome, duration=0)
    chain.move_to_element_with_offset(stage, *(round((p - SIZE / 2) * scale) for p in pixel))
    (chain.click() if click else chain).perform()


def choose(chrome, control, text):
    Select(chrome.find_element(By.ID, control)).select_by_visible_text(text)


def press(chrome, *keys):
    chrome.find_element(By.ID, "stage").send_keys(*keys)


def reading(chrome):
    return chrome.find_element(By.ID, "reading").text


def test_the_area_of_a_key_follows_the_query_under_the_pointer(seen, chrome):
    layer = seen.layers[2]
    assert layer.title == "stage 3, block 4" and layer.groups == 2
    weights = layer.by_group() / layer.groups  # (groups, queries, keys)
    for pixel in ((5, 5), (45, 21), (60, 60)):
        before = radii(chrome)
        move_to(chrome, pixel)
        now = radii(chrome)
        assert np.allclose(now, expected(layer, weights[:, layer.query_at(pixel)]), rtol=0.03)
        assert not np.allclose(before, now)
    assert np.allclose(drawn(chrome, "cx", "cy"), layer.points.reshape(-1, 2), atol=0.01)
    assert "Query in row 8, column 8 of 8 x 8" in reading(chrome)


def test_a_click_fixes_the_query_and_a_second_click_releases_it(chrome):
    move_to(chrome, (21, 21), click=True)
    fixed = radii(chrome)
    move_to(chrome, (50, 50))
    assert np.array_equal(radii(chrome), fixed) and "fixed" in reading(chrome)
    move_to(chrome, (21, 21), click=True)
    move_to(chrome, (50, 50))
    assert not np.array_equal(radii(chrome), fixed) and "fixed" not in reading(chrome)


def test_the_keyboard_moves_fixes_and_releases_the_query(chrome):
    move_to(chrome, (21, 21))
    mouse = radii(chrome)
    press(chrome, Keys.ARROW_RIGHT)
    assert not np.array_equal(radii(chrome), mouse) and "row 3, column 4 of 8 x 8, fixed" in reading(chrome)
    press(chrome, Keys.ARROW_DOWN, Keys.ARROW_LEFT, Keys.ARROW_UP)
    assert np.array_equal(radii(chrome), mouse)
    press(chrome, *[Keys.ARROW_UP] * 20)
    assert "row 1, column 3" in reading(chrome)  # no further than the border
    press(chrome, Keys.ESCAPE)
    assert "fixed" not in reading(chrome)
    press(chrome, Keys.TAB)
    assert chrome.switch_to.active_element.get_attribute("id") == "stageChoice"


def test_touch_moves_the_query(seen, chrome):
    layer, stage = seen.layers[2], chrome.find_element(By.ID, "stage")
    box = chrome.execute_script("const b = arguments[0].getBoundingClientRect(); return [b.x, b.y, b.width]", stage)
    at = lambda pixel: [{"x": box[0] + pixel[0] * box[2] / SIZE, "y": box[1] + pixel[1] * box[2] / SIZE}]  # noqa: E731
    for kind, points in (("touchStart", at((4, 4))), ("touchMove", at((44, 28))), ("touchEnd", [])):
        chrome.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    weights = layer.by_group()[:, layer.query_at((44, 28))] / layer.groups
    assert np.allclose(radii(chrome), expected(layer, weights), rtol=0.03)


def test_stage_layer_group_and_head_can_be_selected(seen, chrome):
    query = (21, 21)
    choose(chrome, "stageChoice", "2")
    layer = seen.layers[0]
    move_to(chrome, query)
    assert np.allclose(radii(chrome), expected(layer, layer.by_group()[:, layer.query_at(query)]), rtol=0.03)
    choose(chrome, "headChoice", "head 2")  # of the single group
    assert np.allclose(radii(chrome), expected(layer, layer.attention[1, layer.query_at(query)]), rtol=0.03)
    choose(chrome, "stageChoice", "3")
    choose(chrome, "layerChoice", "block 2")
    layer = seen.layers[1]
    choose(chrome, "groupChoice", "group 2")
    choose(chrome, "headChoice", "head 1")  # of this group: the third head of the layer
    assert np.allclose(radii(chrome), expected(layer, layer.attention[2, layer.query_at(query)]), rtol=0.03)


def test_grid_arrows_and_heat_map_can_be_shown(seen, chrome):
    count = """
    const boxes = [...document.querySelectorAll("#grid circle, #arrows line")].map((e) => e.getBoundingClientRect());
    return boxes.filter((box) => box.width + box.height > 0).length"""
    layer = seen.layers[2]
    assert chrome.execute_script(count) == 0
    for name, number in (("showGrid", 64), ("showArrows", 64 + 2 * 64)):
        chrome.find_element(By.ID, name).click()
        assert chrome.execute_script(count) == number
    chrome.find_element(By.ID, "showHeat").click()
    heat = np.array(chrome.execute_async_script(_PIXELS)).reshape(*layer.size, 4)[..., 3]  # heat is drawn as opacity
    assert np.allclose(heat / 255, layer.heat() / layer.heat().max(), atol=0.03)


_PIXELS = """
const image = new Image();
image.onload = () => {
  const canvas = Object.assign(document.createElement("canvas"), { width: image.width, height: image.height });
  canvas.getContext("2d").drawImage(image, 0, 0);
  arguments[0]([...canvas.getContext("2d").getImageData(0, 0, image.width, image.height).data]);
};
image.src = document.getElementById("heat").getAttribute("href");
"""


def test_the_page_loads_no_other_resource(chrome):
    assert chrome.execute_script("return performance.getEntriesByType('resource').map(e => e.name)") == []
    assert chrome.title.startswith(TITLE) and TITLE in chrome.find_element(By.TAG_NAME, "h1").text
    assert "</script>" in chrome.find_element(By.ID, "predictions").text  # a class name


def test_controls_have_names(chrome):
    for element in chrome.find_elements(By.CSS_SELECTOR, "select, input, #stage"):
        assert element.accessible_name


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_is_readable(chrome, theme):
    set_theme(chrome, theme)
    ratio, text = lowest_contrast(chrome)
    assert ratio >= 4.5, f"{text!r} has a contrast of {ratio:.2f}"
    background = chrome.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", background))) < 200) == (theme == "dark")


def test_weights_of_a_large_model_are_reduced_to_fit(seen, monkeypatch, tmp_path):
    assert reduction_to_fit(seen.layers) == (False, 1)
    monkeypatch.setattr(attention_page, "MAX_WEIGHTS", 90_000)
    assert reduction_to_fit(seen.layers) == (True, 1)
    monkeypatch.setattr(attention_page, "MAX_WEIGHTS", 30_000)
    assert reduction_to_fit(seen.layers) == (True, 2)
    text = write_attention_page(seen, named(seen, "abcd"), "small", (3, 3), tmp_path / "small.html").read_text()
    assert "the heads of each group are averaged, and one in 2 queries" in text
    layer = json.loads(re.search(r'id="data">(.*?)</script>', text)[1])["layers"][1]
    weights = (np.frombuffer(base64.b64decode(layer["attention"]), np.uint8) / 255.0) ** 2 * layer["most"]
    kept = seen.layers[1].by_group().reshape(2, 8, 8, 64)[:, ::2, ::2]
    assert np.allclose(weights.reshape(kept.shape), kept, atol=0.005 * layer["most"])


def test_points_far_outside_of_a_small_image_are_where_they_are(tmp_path):
    """The reference points of DAT++ on maps of two cells are at half a side outside of the image."""
    torch.manual_seed(0)
    sizes = {"dims": (16, 16, 32, 32), "depths": (2, 2, 2, 2), "num_heads": (1, 1, 2, 2), "groups": (1, 1, 1, 2)}
    model = timm.create_model("datpp_tiny", num_classes=4, **sizes).eval()
    seen = inspect_image(model, torch.randn(3, 64, 64), (0.5,) * 3, (0.25,) * 3)
    text = write_attention_page(seen, [], "small", (3, 3), tmp_path / "small.html").read_text()
    data = json.loads(re.search(r'id="data">(.*?)</script>', text)[1])
    assert max(np.abs(layer.reference).max() for layer in seen.layers) > 80
    for layer, shown in zip(seen.layers, data["layers"], strict=True):
        for name in ("reference", "points"):
            stored = np.frombuffer(base64.b64decode(shown[name]), "<i2") * data["unit"]
            assert np.allclose(stored, getattr(layer, name).ravel(), atol=data["unit"])


def test_outputs_that_are_not_finite_are_an_error():
    model = timm.create_model("dat_nano", num_classes=4, img_size=SIZE, **MODEL).eval()
    torch.nn.init.constant_(model.head.fc.weight, math.nan)
    with pytest.raises(UserError, match="not finite"):
        inspect_image(model, torch.randn(3, SIZE, SIZE), (0.5,) * 3, (0.25,) * 3)
