"""Every form of ImageNet gives the same run, also one that is killed in one form and resumed in another."""

import signal

import pytest
import torch
from commands.running import run_here
from data.files import write_images
from data.imagenet_forms import FORMS, write_forms
from training.real_run import SETTINGS, RealRun, content, ended, steps_done

from dat_train.models import Checkpoint

pytestmark = pytest.mark.long

STEPS_BEFORE_A_KILL = 4


class FormRun(RealRun):
    """dat-train on images in one form of storage; 10 images of 15 are in the 2 steps of an epoch."""

    settings = (
        *(setting for setting in SETTINGS if not setting.startswith(("data", "batch", "micro_batch", "epochs"))),
        *("data=folder", "data.workers=1", "batch_size=6", "micro_batch_size=2", "img_size=32"),
    )


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    return write_forms(tmp_path_factory.mktemp("forms"))


@pytest.fixture(scope="module")
def train(roots, tmp_path_factory):
    """Function that starts a run on a form."""
    caches = {name: str(tmp_path_factory.mktemp(name)) for name in ("DAT_TRAIN_CACHE", "HF_DATASETS_CACHE")}

    def start(folder, form, *settings):
        return FormRun(folder, f"data.root={roots[form]}", *settings, **caches)

    return start


@pytest.fixture(scope="module")
def alone(train, tmp_path_factory):
    """Run folder of a short run on the folders, by number of epochs."""

    def finish(epochs):
        run = train(tmp_path_factory.mktemp("alone"), "folders", f"epochs={epochs}")
        with ended(run):
            assert run.wait() == 0, run.output
        return run.run

    return finish


@pytest.fixture(scope="module")
def short(alone):
    return alone(6)


def states(run):
    """Weights, averaged weights and optimizer in last.pt, as bytes."""
    state = Checkpoint.open(run / "checkpoints/last.pt").content
    return {key: state[key] for key in ("model", "ema", "optimizer", "step")}


def assert_equal(one, other):
    assert type(one) is type(other)
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_equal(one[key], other[key])
    elif isinstance(one, list | tuple):
        for a, b in zip(one, other, strict=True):
            assert_equal(a, b)
    else:
        assert one == other


@pytest.mark.parametrize("form", FORMS[1:])
def test_a_run_on_any_form_is_the_run_on_folders(form, train, short, tmp_path):
    run = train(tmp_path, form, "epochs=6")
    with ended(run):
        assert run.wait() == 0, run.output
    assert_equal(states(run.run), states(short))
    assert (run.run / "metrics.jsonl").read_bytes() == (short / "metrics.jsonl").read_bytes()


def test_a_run_killed_in_every_form_and_resumed_in_the_next_ends_with_the_same_bytes(train, alone, tmp_path):
    epochs = len(FORMS) * STEPS_BEFORE_A_KILL  # of two steps: twice as many steps as before the last kill
    expected = content(alone(epochs))
    for form in FORMS:
        run = train(tmp_path, form, f"epochs={epochs}")
        with ended(run):
            run.wait_for_step(steps_done(run.run) + STEPS_BEFORE_A_KILL)
            run.send(signal.SIGKILL)
            assert run.wait() == -signal.SIGKILL, run.output
            if form != FORMS[0]:
                assert "continuing after step" in run.output
    run = train(tmp_path, "folders", f"epochs={epochs}")
    with ended(run):
        assert run.wait() == 0, run.output
    found = content(run.run)
    assert found["metrics.jsonl"] == expected["metrics.jsonl"]
    assert found["checkpoints/last.pt"] == expected["checkpoints/last.pt"]


def test_a_run_whose_class_folders_were_renamed_is_not_continued(tmp_path):
    for part in ("train", "val"):
        for name in ("cat", "dog"):
            write_images(tmp_path / "photos" / part / name, 6)
    settings = (*FormRun.settings, "data.root=photos", "data.workers=0", "epochs=4")
    assert run_here("dat-train", *settings, "max_steps=2", cwd=tmp_path).returncode == 0
    for part in ("train", "val"):
        (tmp_path / "photos" / part / "cat").rename(tmp_path / "photos" / part / "zebra")
    result = run_here("dat-train", *settings, cwd=tmp_path)
    assert result.returncode == 2
    assert "was started with other classes: without cat, with the new zebra" in result.stderr.replace("\n", " ")
