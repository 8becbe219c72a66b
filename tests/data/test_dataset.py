"""Samples as a function of their key; unreadable images are reported and replaced."""

import errno
import os

import numpy as np
import pytest
import torch
from data.files import photo, write_images
from PIL import Image
from torchvision.transforms.functional import pil_to_tensor
from troubleshooting import entry

from dat_train.cli.machine_faults import environment_error
from dat_train.data import images as module
from dat_train.data.augment import eval_transform, train_transform
from dat_train.data.dataset import UNREADABLE, ImageDataset
from dat_train.data.loader import evaluation_loader
from dat_train.data.micro_batches import SampleKey
from dat_train.errors import UserError

DEIT = {"rand_augment": "rand-m9-mstd0.5-inc1", "random_erasing": 0.25, "mean": (0.5,) * 3, "std": (0.5,) * 3}


def gray(image: Image.Image) -> torch.Tensor:
    return pil_to_tensor(image).float()


@pytest.fixture
def damaged(tmp_path):
    """Eight images of which 2, 3 and 7 cannot be read; the label is ten times the place, the gray the place."""
    paths = write_images(tmp_path, 8)
    for i in (2, 3, 7):
        paths[i].write_bytes(b"no image")
    samples = [(str(path), 10 * i) for i, path in enumerate(paths)]
    return ImageDataset(samples, [str(i) for i in range(71)], gray)


def test_a_sample_has_image_label_and_index(damaged):
    sample = damaged[SampleKey(0, 5, 0)]
    assert (sample.image == 5).all() and sample.image.shape == (3, 8, 8)
    assert (sample.label, sample.index, sample.unreadable) == (50, 5, ())


@pytest.mark.parametrize(("index", "instead"), [(2, 4), (3, 4), (7, 0)])
def test_the_next_readable_image_replaces_an_unreadable_one_with_its_own_label(index, instead, damaged):
    """The image of the key alone is reported, so that consecutive unreadable ones are counted once each."""
    sample = damaged[SampleKey(4, index, 0)]
    assert (sample.image == instead).all()
    assert (sample.label, sample.index) == (10 * instead, instead)
    assert sample.unreadable == (damaged.samples[index][0],)


def test_in_evaluation_an_unreadable_image_is_not_replaced(damaged):
    damaged.training = False
    sample = damaged[SampleKey(0, 2, 0)]
    assert (sample.label, sample.index) == (UNREADABLE, 2)
    assert sample.unreadable == (damaged.samples[2][0],)
    assert sample.image.dtype == torch.float32 and not sample.image.any()
    damaged.transform = eval_transform(24, mean=(0.5,) * 3, std=(0.5,) * 3)
    assert damaged[SampleKey(0, 2, 0)].image.shape == damaged[SampleKey(0, 1, 0)].image.shape == (3, 24, 24)


def test_too_many_consecutive_unreadable_images_end_the_run(damaged, monkeypatch):
    monkeypatch.setattr(module, "MAX_REPLACEMENTS", 2)
    with pytest.raises(UserError) as caught:
        damaged[SampleKey(0, 2, 0)]
    first, last = damaged.samples[2][0], damaged.samples[3][0]
    assert str(caught.value) == (
        f"2 consecutive images cannot be read, beginning with {first}: check the disk; the last reason is {last}: "
        "UnidentifiedImageError: cannot identify image file"
    )
    assert entry("consecutive-unreadable").search(f"error: {caught.value}")


@pytest.mark.parametrize("error", [ValueError, MemoryError, AttributeError, ZeroDivisionError])
def test_an_image_that_cannot_be_transformed_is_unreadable(error, damaged):
    def transform(image):
        if np.asarray(image)[0, 0, 0] == 5:
            raise error("this image")
        return gray(image)

    damaged.transform = transform
    sample = damaged[SampleKey(0, 5, 0)]
    assert (sample.index, sample.label, sample.unreadable) == (6, 60, (damaged.samples[5][0],))
    damaged.training = False
    sample = damaged[SampleKey(0, 5, 0)]
    assert (sample.index, sample.label, sample.unreadable) == (5, UNREADABLE, (damaged.samples[5][0],))
    assert not sample.image.any()


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("number", "text"), [
    (errno.EMFILE, "too many open files: ulimit -n"), (errno.ENFILE, "too many open files: ulimit -n"),
    (errno.ENOMEM, "not enough memory"),
])  # fmt: skip
def test_a_lack_of_files_or_memory_is_an_error_of_the_run(number, text, training, augmented, monkeypatch):
    """The image is not replaced: which images are trained on would depend on the machine."""

    def fail(*_arguments):
        raise OSError(number, os.strerror(number), "a.png")

    monkeypatch.setattr(module, "_opened", fail)
    monkeypatch.setattr(augmented, "training", training)
    with pytest.raises(OSError) as caught:
        augmented[SampleKey(0, 0, 0)]
    assert environment_error(caught.value).startswith(text)
    with pytest.raises(OSError) as caught:
        augmented.read(0)
    with pytest.raises(OSError) as caught:
        next(iter(evaluation_loader(augmented, batch_size=2, workers=1)))
    assert environment_error(caught.value).startswith(text)


@pytest.mark.parametrize("error", [OSError(errno.EIO, "Input/output error"), MemoryError()])
def test_an_image_on_a_damaged_disk_is_unreadable(error, augmented, monkeypatch):
    def fail(source):
        if source == augmented.samples[0][0]:
            raise error
        return original(source)

    original = module._opened
    monkeypatch.setattr(module, "_opened", fail)
    sample = augmented[SampleKey(0, 0, 0)]
    assert (sample.index, sample.unreadable) == (1, (augmented.samples[0][0],))


def test_a_user_error_in_a_transform_is_not_an_unreadable_image(damaged):
    def transform(_image):
        raise UserError("a setting")

    damaged.transform = transform
    with pytest.raises(UserError, match="a setting"):
        damaged[SampleKey(0, 5, 0)]


def test_a_set_without_readable_images_is_an_error(tmp_path):
    nothing = ImageDataset([(f"{tmp_path}/{i}.png", 0) for i in range(3)], ["a"], gray)
    with pytest.raises(UserError, match=r"^3 consecutive images"):
        nothing[SampleKey(0, 1, 0)]


@pytest.fixture(scope="module")
def augmented(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for i in range(2):
        photo(80 + i, 60).save(folder / f"{i}.png")
    samples = [(str(folder / f"{i}.png"), i) for i in range(2)]
    return ImageDataset(samples, ["a", "b"], train_transform(32, **DEIT), seed=1)


def test_augmentation_follows_from_seed_epoch_place_and_repeat(augmented):
    key = SampleKey(3, 1, 0)
    sample = augmented[key]
    first = sample.image
    assert first.dtype == torch.uint8 and torch.equal(sample.normalization, torch.full((2, 3), 0.5))
    augmented[SampleKey(0, 0, 0)]
    torch.rand(5), np.random.rand(5)
    assert torch.equal(augmented[key].image, first) and augmented[key].rectangle == sample.rectangle
    for other in (SampleKey(4, 1, 0), SampleKey(3, 0, 0), SampleKey(3, 1, 1)):
        assert not torch.equal(augmented[other].image, first)
    augmented.seed = 2
    assert not torch.equal(augmented[key].image, first)
    augmented.seed = 1


def test_reading_a_sample_leaves_the_generators_alone(augmented):
    torch.manual_seed(0)
    expected = torch.rand(())
    torch.manual_seed(0)
    augmented[SampleKey(0, 0, 0)]
    assert torch.rand(()) == expected
