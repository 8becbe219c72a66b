"""Wrong layouts of ImageNet folders are reported in one line with the solution."""

import pytest

from dat_train.data.storages.sources import open_datasets, open_evaluation_set
from dat_train.errors import UserError

SYNSETS = [f"n{i:08d}" for i in range(1000)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """ImageNet's folders with two empty files in each class; opening reads names only."""
    root = tmp_path_factory.mktemp("imagenet")
    for part in ("train", "val"):
        for synset in SYNSETS:
            (root / part / synset).mkdir(parents=True)
            (root / part / synset / f"{synset}_1.JPEG").touch()
    return root


def error_of(root):
    with pytest.raises(UserError) as caught:
        open_datasets("imagenet", root)
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_both_parts_are_found(whole):
    train, val = open_datasets("imagenet", whole)
    assert train.classes == val.classes == SYNSETS
    assert train.samples[999] == (f"{whole}/train/{SYNSETS[999]}/{SYNSETS[999]}_1.JPEG", 999)
    assert train.training and not val.training


def test_evaluating_does_not_need_or_list_train(whole, tmp_path):
    (tmp_path / "val").symlink_to(whole / "val")
    (tmp_path / "train").mkdir()  # listing it would be refused: it is empty
    assert len(open_evaluation_set("imagenet", tmp_path, classes=SYNSETS)) == 1000
    (tmp_path / "train").rmdir()
    assert len(open_evaluation_set("imagenet", tmp_path)) == 1000


def test_no_train(tmp_path):
    (tmp_path / "val/n01440764").mkdir(parents=True)
    assert error_of(tmp_path) == f"{tmp_path} has val but no train/; to evaluate it use dat-eval"


def test_neither_train_nor_val(tmp_path):
    assert error_of(tmp_path) == f"{tmp_path} has no folders in it: each class is a folder of images"


def test_no_val(tmp_path):
    (tmp_path / "train/n01440764").mkdir(parents=True)
    assert "has train/ but no val/" in error_of(tmp_path)


def test_validation_images_that_are_not_sorted(whole, tmp_path):
    (tmp_path / "train").symlink_to(whole / "train")
    (tmp_path / "val").mkdir()
    (tmp_path / "val/ILSVRC2012_val_00000001.JPEG").touch()
    assert error_of(tmp_path) == (
        f"{tmp_path}/val has no class folders and no labels: put LOC_val_solution.csv (Kaggle) or "
        "ILSVRC2012_devkit_t12.tar.gz next to it"
    )


def test_another_number_of_classes(tmp_path):
    for name in ("n01440764", "n01443537"):
        (tmp_path / "train" / name).mkdir(parents=True)
    (tmp_path / "val").mkdir()
    assert error_of(tmp_path) == (
        "the training set has 2 classes, ImageNet-1K has 1000; for other data use data=folder"
    )


@pytest.mark.parametrize("part", ["train", "val"])
def test_an_empty_class(part, whole):
    image = whole / part / SYNSETS[7] / f"{SYNSETS[7]}_1.JPEG"
    image.unlink()
    try:
        assert error_of(whole).startswith(f"class '{SYNSETS[7]}' has no images: {whole}/{part}/{SYNSETS[7]} (")
    finally:
        image.touch()


def test_a_validation_class_of_another_name(whole):
    (whole / "val/tench").mkdir()
    (whole / "val/tench/1.jpg").touch()
    try:
        assert error_of(whole).startswith(f"{whole}/val has classes that train/ does not have: 'tench'; train/ has ")
    finally:
        (whole / "val/tench/1.jpg").unlink()
        (whole / "val/tench").rmdir()
