"""Every form of storage gives the same samples in the same order, the same batches, and the same fingerprint."""

import pickle
import shutil
import subprocess
import tarfile
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from data.files import write_image
from data.imagenet_forms import FORMS, PACKED, SYNSETS, write_forms
from PIL import Image
from troubleshooting import entry

from dat_train.data.augment import eval_transform, train_transform
from dat_train.data.fingerprint import data_fingerprint, describe_data
from dat_train.data.loader import train_loader
from dat_train.data.micro_batches import MicroBatchSampler, SampleKey
from dat_train.data.storages.sources import open_datasets, open_evaluation_set
from dat_train.errors import UserError


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DAT_TRAIN_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("hf")))
        yield


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    """The same images in every form, by its name."""
    return write_forms(tmp_path_factory.mktemp("forms"))


def samples(dataset):
    return [(Path(path).stem.split("_n0")[0], label) for path, label in dataset.samples]


@pytest.mark.parametrize("form", FORMS)
def test_samples_batches_and_fingerprint_are_those_of_the_folders(form, roots):
    expected, found = open_datasets("folder", roots["folders"]), open_datasets("folder", roots[form])
    for one, other in zip(expected, found, strict=True):
        assert other.classes == list(SYNSETS)
        assert samples(other) == samples(one)
        assert one.training == other.training
    assert data_fingerprint(*found) == data_fingerprint(*expected)
    for one, other in zip(batches(expected[0]), batches(found[0]), strict=True):
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.labels, other.labels) and torch.equal(one.indices, other.indices)


@pytest.mark.parametrize("form", FORMS)
def test_sets_can_be_sent_to_workers_that_are_not_forked(form, roots):
    """As data workers start on macOS and Windows, and on Linux with Python 3.14."""
    images, _ = open_datasets("csv" if form == "csv" else "folder", roots[form])
    images.transform = eval_transform(16, mean=(0.5,) * 3, std=(0.5,) * 3)
    images.encoded(0)  # with files of archives opened
    received = pickle.loads(pickle.dumps(images))
    key = SampleKey(0, 3, 0)
    assert received.samples[3] == images.samples[3] and torch.equal(received[key].image, images[key].image)


def batches(dataset):
    dataset.transform = train_transform(16, scale=(0.3, 1.0), mean=(0.5,) * 3, std=(0.5,) * 3)
    dataset.seed = 3
    order = MicroBatchSampler(len(dataset), seed=5, batch_size=6, micro_batch_size=3, first_step=1, last_step=5)
    return list(train_loader(dataset, order, workers=2))


@pytest.mark.parametrize("form", PACKED)
def test_reading_ahead_changes_no_image(form, roots):
    images, _ = open_datasets("folder", roots[form])
    assert sorted(images.storage_order()) == list(range(15))
    images.read_ahead(np.arange(15))
    assert images.encoded(3) == (roots["folders"] / "train/n01440764/n01440764_6.JPEG").read_bytes()


def test_reading_ahead_in_an_archive_that_is_gone_is_no_error(roots, tmp_path):
    archive = shutil.copy(roots["zip"], tmp_path)
    images, _ = open_datasets("folder", archive)
    Path(archive).unlink()
    images.read_ahead(np.arange(15))
    with pytest.raises(OSError, match="No such file"):
        images.encoded(3)


@pytest.mark.parametrize("form", FORMS)
def test_evaluation_reads_the_validation_split_alone(form, roots):
    images = open_evaluation_set("folder", roots[form], classes=SYNSETS[::-1])
    assert len(images) == 6 and [label for _, label in images.samples] == [2, 2, 1, 1, 0, 0]
    assert images.read(0).size == (30, 29)


def test_a_read_only_root_is_enough(roots, tmp_path, monkeypatch):
    """Opened and read in every form with empty caches, as from a shared file system."""
    mount = tmp_path / "shared"
    mount.mkdir()
    top = roots["folders"].parent
    if subprocess.run(["mount", "--bind", "-o", "ro", top, mount], capture_output=True).returncode:
        pytest.skip("needs the right to mount a folder read-only")
    monkeypatch.setenv("DAT_TRAIN_CACHE", str(tmp_path / "cache"))
    try:
        with pytest.raises(OSError, match="Read-only"):
            (mount / "folders/new").touch()
        for root in roots.values():
            train, val = open_datasets("folder", mount / root.relative_to(top))
            assert (len(train), len(val)) == (15, 6) and train.read(0).size == (30, 27)
    finally:
        subprocess.run(["umount", "-l", mount], check=True)


@pytest.mark.parametrize("level", ["", "ILSVRC", "ILSVRC/Data", "ILSVRC/Data/CLS-LOC"])
def test_kaggles_tree_is_opened_from_any_level(level, roots):
    train, val = open_datasets("folder", roots["kaggle"] / level)
    assert (len(train), len(val)) == (15, 6)


def test_a_single_set_is_split_alike_in_every_form(roots, tmp_path):
    train_folder = roots["folders"] / "train"
    shutil.make_archive(str(tmp_path / "train"), "zip", train_folder)
    parts = [open_datasets("folder", root, val_fraction=0.3) for root in (train_folder, tmp_path / "train.zip")]
    assert samples(parts[0][1]) == samples(parts[1][1]) and len(parts[0][1]) > 0
    assert data_fingerprint(*parts[0]) == data_fingerprint(*parts[1])


def test_the_index_is_kept_and_made_again_when_the_archive_changes(roots, tmp_path, monkeypatch):
    monkeypatch.setenv("DAT_TRAIN_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "a.tar"
    shutil.copy(roots["tar"], path)
    open_datasets("folder", path)
    (index,) = (tmp_path / "cache").iterdir()
    before = index.stat().st_mtime_ns
    open_datasets("folder", path)
    assert index.stat().st_mtime_ns == before
    index.write_bytes(index.read_bytes()[:100])  # a damaged one counts as missing
    open_datasets("folder", path)
    with tarfile.open(path, "a") as archive:
        archive.add(roots["folders"] / "train/n01440764/n01440764_3.JPEG", "./train/n01440764/new.JPEG")
    assert len(open_datasets("folder", path)[0]) == 16
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_damaged_or_compressed_archives_are_refused_in_one_line(roots, tmp_path):
    whole = roots["tar"].read_bytes()
    (tmp_path / "cut.tar").write_bytes(whole[: len(whole) // 2 + 100])
    with pytest.raises(UserError, match=r"cut.tar is not a whole archive \(.*\); compare its size") as caught:
        open_datasets("folder", tmp_path / "cut.tar")
    assert entry("cut-archive").search(f"error: {caught.value}")
    with tarfile.open(tmp_path / "packed.tar", "w:gz") as archive:
        archive.add(roots["folders"], "x")
    with pytest.raises(UserError, match="is compressed, so images cannot be read at random; gunzip it first"):
        open_datasets("folder", tmp_path / "packed.tar")


def test_official_archives_without_labels(roots, tmp_path):
    shutil.copy(roots["official"] / "ILSVRC2012_img_val.tar", tmp_path)
    with pytest.raises(UserError, match=r"no labels: put LOC_val_solution.csv \(Kaggle\) or ILSVRC2012_devkit"):
        open_evaluation_set("folder", tmp_path)


def test_data_imagenet_requires_all_classes_in_every_form(roots):
    for form in ("folders", "official", "parquet", "shards", "zip"):
        with pytest.raises(UserError, match="the training set has 3 classes, ImageNet-1K has 1000"):
            open_datasets("imagenet", roots[form])


def test_a_table_of_several_labels(tmp_path):
    for i in range(4):
        Image.new("RGB", (8, 8), (i, 0, 0)).save(tmp_path / f"{i}.png")
    text = "path,tags,split\n2.png,cat;dog,train\n0.png,dog,train\n1.png,,train\n3.png,dog|cat,val\n"
    (tmp_path / "t.csv").write_text(text)
    train, val = open_datasets("csv", tmp_path, multi_label=True)
    assert train.classes == val.classes
    tags = [[train.classes[k] for k in np.flatnonzero(row)] for row in train.targets]
    assert tags == [["dog"], [], ["cat", "dog"]]


def test_all_spellings_of_a_split_in_a_table_are_one_split_and_rows_without_one_are_counted(tmp_path):
    splits = ["train", "Train", "TRAINING", "", "val", "Valid", "validation", ""]
    touch(tmp_path, len(splits))
    rows = [f"{number}.png,a,{split}" for number, split in enumerate(splits)]
    (tmp_path / "t.csv").write_text("\n".join(["path,label,split", *rows]))
    train, val = sets = open_datasets("csv", tmp_path)
    assert [[Path(path).stem for path, _ in part.samples] for part in sets] == [["0", "1", "2"], ["4", "5", "6"]]
    note = f"{tmp_path}/t.csv: 2 rows without a split are not used"
    assert describe_data(train, val)[-1] == ("note", note) and [*train.notes, *val.notes] == [note, note]


def touch(folder, number):
    """Make files 0.png, 1.png, ... that are not read."""
    folder.mkdir(exist_ok=True)
    for i in range(number):
        (folder / f"{i}.png").touch()


def labels_of(images):
    names = [path.rpartition("/")[2] for path, _ in images.samples]
    rows = [{images.classes[k] for k in np.flatnonzero(row)} for row in images.targets]
    return dict(zip(names, rows, strict=True))


@pytest.mark.parametrize("text", [
    "path,labels\n0.png,traffic light;car\n1.png,\n2.png,car\n3.png,traffic light\n",
    "path;labels\n0.png;traffic light|car\n1.png;\n2.png;car\n3.png;traffic light\n",
    'image,tags\n3.png,traffic light\n2.png,car\n1.png,\n0.png,"car, traffic light"\n',
    "path,labels\n0.png,traffic light;\n0.png,car;\n1.png,\n2.png,car\n3.png,traffic light\n",  # a row for each label
    "image,traffic light,car\n0.png,1,1\n1.png,0,\n2.png,0.0,TRUE\n3.png,1,false\n",
    "car,age,image,traffic light\n1,40,0.png,1\n0,2,1.png,0\n1,3,2.png,0\n0,1,3.png,1\n",
])  # fmt: skip
def test_the_forms_of_a_table_of_several_labels_are_the_same_data(text, tmp_path):
    (tmp_path / "t.csv").write_text(text)
    touch(tmp_path, 4)
    images = open_evaluation_set("csv", tmp_path, multi_label=True)
    assert images.classes == ["car", "traffic light"]
    expected = {"0.png": {"car", "traffic light"}, "1.png": set(), "2.png": {"car"}, "3.png": {"traffic light"}}
    assert labels_of(images) == expected
    assert images.class_counts().tolist() == [2, 2]
    assert any("1 images without a label" in note for note in images.notes)
    assert ("car,age" in text) == any("not 0 and 1 are not used: age (40)" in note for note in images.notes)
    other = tmp_path / "other"
    touch(other, 4)
    (other / "t.csv").write_text("path,labels\n0.png,car|traffic light\n1.png,\n2.png,car\n3.png,traffic light\n")
    assert images.fingerprint() == open_evaluation_set("csv", other, multi_label=True).fingerprint()


def test_labels_separated_by_spaces_are_several(tmp_path):
    touch(tmp_path, 2)
    (tmp_path / "t.csv").write_text("image_name,tags\n0.png,haze primary\n1.png,clear\n")
    images = open_evaluation_set("csv", tmp_path, multi_label=True)
    assert labels_of(images) == {"0.png": {"haze", "primary"}, "1.png": {"clear"}}


def test_a_label_that_is_added_moves_no_image_between_training_and_validation(tmp_path):
    touch(tmp_path, 60)

    def held_out(labels):
        lines = [f"{i}.png,{labels(i)}" for i in range(60)]
        (tmp_path / "t.csv").write_text("\n".join(["path,labels", *lines]) + "\n")
        train, val = open_datasets("csv", tmp_path, multi_label=True, val_fraction=0.3)
        assert train.class_counts().all() and len(train) + len(val) == 60
        return set(labels_of(val))

    before = held_out(lambda i: "a;b" if i % 2 else "b;c")
    assert before == held_out(lambda i: "a;b" if i % 2 else "0;b;c")
    rare = held_out(lambda i: "rare;a" if f"{i}.png" in before else "a")  # it keeps an image for training
    assert len(rare) == len(before) - 1


def test_a_table_that_is_not_utf_8_is_windows_1252(tmp_path):
    write_image(tmp_path / "café.png")
    (tmp_path / "t.csv").write_bytes("path;label\r\ncafé.png;thé\r\n".encode("cp1252"))
    images = open_evaluation_set("csv", tmp_path)
    assert images.classes == ["thé"] and images.read(0).size == (64, 48)


@pytest.mark.parametrize("first", ["sep=;\r\n", '"sep=;"\r\n', "\ufeffSEP=;\r\n"])
def test_a_first_line_of_excel_names_the_separator(first, tmp_path):
    touch(tmp_path, 1)
    (tmp_path / "t.csv").write_text(f"{first}path;label\r\n0.png; a, b \r\n", newline="")
    assert open_evaluation_set("csv", tmp_path).classes == ["a, b"]


def test_paths_of_a_table_from_windows(tmp_path):
    (tmp_path / "images").mkdir()
    for i in range(2):
        Image.new("RGB", (8, 8), (i, 0, 0)).save(tmp_path / f"images/{i}.png")
    (tmp_path / "t.csv").write_bytes(b"path,label\r\nimages\\0.png,a\r\n.\\images\\1.png,b\r\n")
    images = open_evaluation_set("csv", tmp_path)
    assert [images.read(index).getpixel((0, 0)) for index in (0, 1)] == [(0, 0, 0), (1, 0, 0)]


@pytest.mark.parametrize(("text", "message"), [
    ("path,age\na.png,40\n", r"has neither a column of labels \(label, .*\) nor a column of 0 and 1 for each class"),
    ("path,labels\na.png,\n", r"has no label: the label column is empty"),
    ("path,a,a\na.png,1,0\n", r"'a' is not the name of one class"),
])  # fmt: skip
def test_mistakes_in_a_table_of_several_labels_are_named(text, message, tmp_path):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(UserError, match=message):
        open_datasets("csv", tmp_path / "t.csv", multi_label=True)


@pytest.mark.parametrize(("text", "message"), [
    ("file name,class\na.png,x\n", r"columns file name, class; none of them is path: set data.image_column=NAME"),
    ("path,label\na.png\n", r"line 2: 1 fields, the heading has 2"),
    ("path,label\na.png,\n", r"line 2: no path or no label"),
    ("path,label\n", r"lists no images"),
    ("", r"has the columns none; none of them is path"),
    ("sep=;\npath;label\n\na.png;x\n\na.png\n", r"line 6: 1 fields, the heading has 2"),
    ('path,label,x\na.png,a,"1\n2"\na.png,"b,1\na.png,a,1\na.png,b",1\n', r"line 4: a line break in the column label"),
    ('path,label\n"a.png,a\n' + "a.png,a\n" * 20_000, r"line 2: field larger .*; is a quote not closed\?"),
])  # fmt: skip
def test_errors_in_a_table_are_named(text, message, tmp_path):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(UserError, match=message):
        open_datasets("csv", tmp_path / "t.csv")


def test_repeated_rows_are_said(tmp_path):
    touch(tmp_path, 3)
    table = tmp_path / "t.csv"
    for last, more in (("0.png,a", ""), ("./0.png,b", "; 1 further labels of the same images: task=multilabel comb")):
        table.write_text(f"path,label\n0.png,a\n1.png,a\n2.png,b\n{last}\n")
        (note,) = open_evaluation_set("csv", table).notes
        assert entry("repeated-rows").search(note) and f"{table}: 4 rows of 3 images{more}" in note
    (note,) = open_evaluation_set("csv", table, multi_label=True).notes
    assert note == f"{table}: 4 rows of 3 images"
    table.write_text("path,label\n0.png,a\n")
    assert not open_evaluation_set("csv", table).notes


@pytest.mark.parametrize(("path", "existing"), [
    ("1.png", "images/1.png"),  # in a folder next to the table
    ("photos/1.png", "1.png"),  # relative to the folder above
    ("images/1", "images/1.jpg"),  # without the suffix
    ("/old/1.png", None),
])  # fmt: skip
def test_a_table_whose_paths_are_all_missing_is_refused_with_the_first_one(path, existing, tmp_path):
    table = tmp_path / "photos/t.csv"
    table.parent.mkdir()
    table.write_text(f"path,label\n{path},a\nx.png,b\n")
    if existing:
        write_image(table.parent / existing)
    with pytest.raises(UserError) as caught:
        open_evaluation_set("csv", table)
    assert entry("missing-paths").fullmatch(f"error: {caught.value}")
    assert f"none of the 2 paths in data.root={table} exists; the first is {table.parent / path}; " in str(caught.value)
    assert bool(existing) == (f"; did you mean {table.parent / (existing or '')}?;" in str(caught.value))
    write_image(table.parent / "x.png")  # one is enough; the other is then unreadable
    assert len(open_evaluation_set("csv", table)) == 2


@pytest.mark.parametrize(("values", "number"), [([0, 1, -1, -1], 2), ([0, None, 1], 1), (["a", None], 1)])
def test_images_without_a_label_in_a_hugging_face_set_are_refused(values, number, tmp_path):
    kind = datasets.Value("string") if "a" in values else datasets.ClassLabel(names=["a", "b", "c"])
    images = [str(write_image(tmp_path / "1.png"))] * len(values)
    columns = datasets.Features({"image": datasets.Image(), "label": kind})
    rows = datasets.Dataset.from_dict({"image": images, "label": values}, features=columns)
    datasets.DatasetDict({"test": rows}).save_to_disk(str(tmp_path / "set"))
    with pytest.raises(UserError) as caught:
        open_evaluation_set("hf", tmp_path / "set", split="test")
    value = next(value for value in values if value in (None, -1))
    assert f"set, split test: {number} of {len(values)} images have no label (label={value}); " in str(caught.value)
    assert "choose another split with data.split=NAME" in str(caught.value)


@pytest.mark.parametrize(("name", "text"), [
    ("train-0.parquet", r"\(Parquet magic bytes not found in footer\. .*\); it needs parquet files, or the folder"),
    (None, r"\(The directory at .* doesn't contain any data files\); it needs parquet files"),
])  # fmt: skip
def test_a_damaged_or_empty_hugging_face_set_is_one_line(name, text, tmp_path):
    (tmp_path / "data").mkdir()
    if name:
        (tmp_path / "data" / name).write_bytes(b"PAR1 cut")
    with pytest.raises(UserError, match=text) as caught:
        open_evaluation_set("hf", tmp_path, split="train" if name else None)
    assert "\n" not in str(caught.value)


@pytest.mark.long
def test_a_hub_name_that_cannot_be_reached_is_one_line():
    with pytest.raises(
        UserError, match=r"data.root=nobody/nothing is not a folder, and no such data set can be loaded"
    ):
        open_datasets("hf", "nobody/nothing")
