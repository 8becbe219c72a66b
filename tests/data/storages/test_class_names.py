"""Labels are class names: data and model are matched by name, never by position."""

import pytest
from data.files import write_images
from troubleshooting import entry

from dat_train.data.fingerprint import class_difference
from dat_train.data.storages.class_names import imagenet_numbers
from dat_train.data.storages.imagenet_tests import open_test_set
from dat_train.data.storages.sources import open_evaluation_set
from dat_train.errors import UserError


def labels(root, classes, **settings):
    images = open_evaluation_set("folder", root, classes=classes, **settings)
    assert images.classes == list(classes)
    return {path.split("/")[-2]: label for path, label in images.samples}


@pytest.fixture
def animals(tmp_path):
    for name in ("cat", "dog", "horse"):
        write_images(tmp_path / name, 1)
    return tmp_path


def test_labels_are_those_of_the_model_in_any_order(animals):
    assert labels(animals, ["dog", "horse", "cat"]) == {"cat": 2, "dog": 0, "horse": 1}


def test_a_subset_is_evaluated_and_a_note_says_so(animals):
    images = open_evaluation_set("folder", animals, classes=["zebra", "dog", "horse", "cat", "ape"])
    assert sorted(set(images.samples.labels.tolist())) == [1, 2, 3]
    assert images.subset is None  # all classes of the model can be predicted
    assert images.notes == (f"data.root={animals}: 3 of the 5 classes of the model occur (not zebra, ape)",)


def test_an_unknown_class_is_refused_with_both_lists(animals):
    with pytest.raises(UserError) as caught:
        labels(animals, ["cat", "dogs", "horse"])
    assert str(caught.value) == (
        f"data.root={animals} has classes that the model does not have: 'dog'; the model has 'cat', 'dogs', 'horse'"
    )
    assert entry("unknown-class").search(f"error: {caught.value}")


def test_long_lists_of_classes_are_cut(tmp_path):
    for number in range(8):
        write_images(tmp_path / f"new{number}", 1)
    with pytest.raises(
        UserError, match=r"'new0', 'new1', 'new2', 'new3', 'new4', ... \(8\); the model has '0', .*\(1,000\)"
    ):
        labels(tmp_path, [str(number) for number in range(1000)])


def test_imagenet_classes_match_by_number_and_by_words(tmp_path):
    for name in ("tench", "goldfish, Carassius auratus", "Tiger_Shark"):
        write_images(tmp_path / name, 1)
    found = labels(tmp_path, imagenet_numbers())
    assert found == {"tench": 0, "goldfish, Carassius auratus": 1, "Tiger_Shark": 3}
    write_images(tmp_path / "other" / "n01440764", 1)
    assert labels(tmp_path / "other", ["goldfish", "tench, Tinca tinca"]) == {"n01440764": 1}


def test_names_match_with_composed_and_decomposed_characters(tmp_path):
    composed, decomposed = "caf\u00e9", "cafe\u0301"  # as typed on Linux, and as macOS writes it on some disks
    for name in (decomposed, "the"):
        write_images(tmp_path / "mac" / name, 1)
    assert labels(tmp_path / "mac", ["the", composed]) == {decomposed: 1, "the": 0}
    assert class_difference([composed, "the"], [decomposed, "the"]) is None
    write_images(tmp_path / "mac" / composed, 1)
    with pytest.raises(UserError, match="two folders of one class"):
        labels(tmp_path / "mac", ["the", composed])


def test_two_folders_of_one_class_are_refused(tmp_path):
    for name in ("tench", "n01440764"):
        write_images(tmp_path / name, 1)
    with pytest.raises(UserError, match="two folders of one class"):
        labels(tmp_path, imagenet_numbers())


def test_the_test_sets_of_imagenet_are_matched_by_name_too(tmp_path):
    write_images(tmp_path / "n01498041", 1)  # a class of ImageNet-A
    backwards = imagenet_numbers()[::-1]
    ours, plain = open_test_set("imagenet_a", tmp_path, backwards), open_test_set("imagenet_a", tmp_path)
    assert [backwards[label] for label in ours.samples.labels] == ["n01498041"]
    assert {backwards[label] for label in ours.subset} == {plain.classes[label] for label in plain.subset}
    with pytest.raises(UserError, match="imagenet_a has classes that the model does not have"):
        open_test_set("imagenet_a", tmp_path, ["cat", "dog"])


def test_fake_images_fit_a_model_trained_on_fake_images():
    images = open_evaluation_set("fake", classes=[str(i) for i in range(5)], fake_classes=3, image_size=8)
    assert len(images.classes) == 5
    with pytest.raises(UserError, match="data=fake has classes 0 to 2"):
        open_evaluation_set("fake", classes=["cat", "dog"], fake_classes=3)
