"""Nuclei as tiles with masks and boxes for both dense tasks, from the files of the package stardist."""

import sys

import numpy as np
import pytest
from PIL import Image

from dat_train.data.generated.nuclei import CLASSES, write_nuclei
from dat_train.data.scenes.coco import open_coco
from dat_train.data.scenes.segmentation_sources import open_segmentation
from dat_train.errors import UserError


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package with an image of the same size and type as stardist's: a square nucleus in every tile."""
    folder = tmp_path / "site" / "stardist" / "data" / "images"
    folder.mkdir(parents=True)
    (tmp_path / "site" / "stardist" / "__init__.py").write_text("raise ImportError('needs many packages')")
    instances = np.zeros((512, 512), np.uint16)
    for tile in range(16):
        row, column = divmod(tile, 4)
        instances[128 * row + 50 : 128 * row + 60, 128 * column + 40 : 128 * column + 60] = tile + 1
    Image.fromarray(instances).save(folder / "mask2d.tif")
    Image.fromarray((20 + 200 * (instances > 0)).astype(np.uint16)).save(folder / "img2d.tif")
    monkeypatch.setattr(sys, "path", [str(tmp_path / "site"), *sys.path])
    return tmp_path


def test_tiles_have_masks_and_boxes_and_are_split_by_the_seed(package):
    root = package / "nuclei"
    train, val = open_segmentation("nuclei", str(root))
    assert (len(train), len(val)) == (12, 4) and train.classes == list(CLASSES)
    labels = train.read_labels(0)
    assert labels.shape == (128, 128) and labels.sum() == 200 and labels[50:60, 40:60].all()
    assert np.asarray(train.read(0))[labels == 1].min() > 200
    (_, train_file), (_, val_file) = open_coco("nuclei", str(root))
    assert (len(train_file.images), len(val_file.images), train_file.classes) == (12, 4, ["nucleus"])
    objects = val_file.usable(val_file.images[0])
    assert objects.boxes.tolist() == [[40, 50, 60, 60]] and objects.masks(128, 128).sum() == 200
    with pytest.raises(UserError, match="has scenes with nuclei split_seed=0, not nuclei split_seed=1"):
        write_nuclei(root, split_seed=1)


def test_a_missing_package_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr("dat_train.data.generated.nuclei.PACKAGE", "no_such_package")
    with pytest.raises(UserError, match="pip install --no-deps stardist"):
        write_nuclei(tmp_path / "nuclei")
    assert not (tmp_path / "nuclei").exists()
