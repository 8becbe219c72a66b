"""dat-visualize, from the command line to its files."""

import warnings

import pytest
from commands.running import run_here
from commands.small_checkpoint import write_small_checkpoint
from PIL import Image

PICTURES = {"points.png", "attention.png", "heat.png", "traced.png", "predictions.png", "attention.html"}
LAYERS = {"points_stage2_block2.png", "points_stage3_block2.png", "points_stage4_block2.png"}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A run folder with a checkpoint, and a folder of images, one of them unreadable."""
    home = tmp_path_factory.mktemp("home")
    write_small_checkpoint(home / "run/checkpoints/best.pt")
    (home / "run/config.yaml").touch()
    for place, name in enumerate(("a.png", "b.jpg", "c/a.png")):
        (home / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (50, 30), (80 * place, 90, 200)).save(home / "images" / name)
    (home / "images/d.png").write_text("no image")
    return home


def visualize(home, *arguments):
    result = run_here("dat-visualize", "ckpt=run/checkpoints/best.pt", *arguments, cwd=home)
    return result.returncode, result.stdout, result.stderr


def names(folder):
    return {path.name for path in folder.iterdir()}


def test_every_image_of_a_folder_gets_pictures_and_a_page(home):
    code, out, err = visualize(home, "image=images")
    assert code == 2 and err == "error: 1 of 4 images cannot be read: images/d.png\n"
    assert names(home / "run/visualize") == {"a", "b", "a-2"}
    for folder in ("a", "b", "a-2"):
        assert names(home / "run/visualize" / folder) == PICTURES | LAYERS
        with Image.open(home / "run/visualize" / folder / "points.png") as picture:
            picture.verify()
    lines = out.splitlines()
    assert (
        len(lines) == 4
        and lines[0].startswith("images/a.png: ")
        and lines[0].endswith("run/visualize/a/attention.html")
    )
    assert sum("%" in line for line in lines) == 3 and "warning: images/d.png" in lines[3]


def test_a_query_and_an_output_can_be_chosen(home):
    code, out, _ = visualize(home, "image=images/a.png", "query=[[3,4],[20.5,30]]", "output=here", "pictures=false")
    assert code == 0 and names(home / "here/a") == {"attention.html"} and "here/a/attention.html" in out
    assert '"start":[3.0,4.0]' in (home / "here/a/attention.html").read_text()
    code, _, _ = visualize(home, "image=images/a.png", "query=[3,4]", "output=one", "page=false")
    one = Image.open(home / "one/a/attention.png")
    assert code == 0 and names(home / "one/a") == (PICTURES | LAYERS) - {"attention.html"}
    assert one.size[0] > 2 * one.size[1]  # one row of three layers


def test_images_beyond_the_limit_are_left_out(home):
    code, out, _ = visualize(home, "image=images", "most_images=1", "output=few", "page=false")
    assert code == 0 and names(home / "few") == {"a"}
    assert "3 more images were left out; most_images=4 takes all" in out


@pytest.mark.parametrize("query", ["[40,4]", "[1,2,3]", "[[1,2],[3,a]]", "[]", "[-1,0]"])
def test_a_query_outside_the_input_is_refused(home, query):
    code, out, err = visualize(home, "image=images/a.png", f"query={query}")
    assert code == 2 and out == "" and err.startswith("error: query=") and "between 0 and 32" in err


def test_a_model_without_deformable_attention_is_refused(home):
    write_small_checkpoint(home / "swin.pt", "++model.args.blocks=[LS,LS,LS,LS]")
    result = run_here("dat-visualize", "ckpt=swin.pt", "image=images/a.png", cwd=home)
    assert result.returncode == 2 and "has no deformable attention" in result.stderr


def test_a_report_of_a_run_without_steps(home):
    (home / "run/config.yaml").write_text("name: run\n")
    result = run_here("dat-report", "run", "output=pages/report.html", cwd=home)
    assert result.returncode == 0 and result.stdout == "1 run: pages/report.html\n"
    assert "No step is done yet." in (home / "pages/report.html").read_text()
    refused = run_here("dat-report", "images", cwd=home)
    assert refused.returncode == 2 and refused.stderr.startswith("error: images is not a run folder")


def test_a_one_channel_model_and_awkward_names(home):
    classes = ["a\nb", "long " * 60, "قطة", "👩‍👩‍👧", "\x1b[31m", "x\udcff", *"6789"]
    write_small_checkpoint(home / "gray.pt", "data.mean=[0.5]", "data.std=[0.25]", classes=classes)
    image = home / "odd" / "odd \udcfe.png"
    image.parent.mkdir()
    Image.radial_gradient("L").convert("RGB").save(image)
    with warnings.catch_warnings(action="error", category=UserWarning):
        result = run_here("dat-visualize", "ckpt=gray.pt", "image=odd", "output=gray", cwd=home)
    assert result.returncode == 0, result.stderr
    (folder,) = (home / "gray").iterdir()
    assert names(folder) == PICTURES | LAYERS and "\x1b" not in result.stdout
    page = (folder / "attention.html").read_text(encoding="utf-8")
    assert "odd \\xfe.png" in page
    with Image.open(folder / "predictions.png") as picture:
        picture.verify()
